"""Networks whose feature maps FiLM reads."""
