"""Faster equivalents of modules, which ``accelerate`` puts into a model.

The models do not depend on this room, and compute the same without it.
"""
