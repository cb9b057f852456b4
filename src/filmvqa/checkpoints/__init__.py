"""Write, read and export checkpoints; convert those of the original code."""
