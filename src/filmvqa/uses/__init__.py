"""Other uses of FiLM."""
