"""FiLM's other uses."""
