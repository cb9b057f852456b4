"""Segmentation that is corrected by language: classes, mistakes, and hints in words."""
