"""Correcting a segmentation network by hints in words."""
