"""Worlds: scenes, their images or sounds, and questions about them. Nothing here imports torch."""
