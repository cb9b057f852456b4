"""Checkpoints: written, read, exported and shipped, and those of the original code."""
