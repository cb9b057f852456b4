"""The same results sooner. ``accelerate`` replaces the modules of a model that have a fast form.

A model's code knows nothing of this room, and computes the same without it.
"""
