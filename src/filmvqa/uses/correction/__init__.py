"""Correct a segmentation network with hints in words."""
