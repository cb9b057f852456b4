"""Worlds: what questions are about, and how they are made. Nothing here imports torch."""
