"""filmvqa: visual question answering on CLEVR with feature-wise linear modulation."""

__version__ = "0.1.0"
