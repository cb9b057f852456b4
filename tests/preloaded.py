"""What the server of scripts imports before any is forked from it: most of a script's start."""
# ruff: noqa: F401

import filmvqa.cli.command  # first: it sets what the others read

# isort: split
import h5py
import matplotlib.backends.backend_agg
import numba
import scipy.linalg
import torch._dynamo

import filmvqa.backbones.extraction
import filmvqa.evaluation.predictions
import filmvqa.training.curves
import filmvqa.training.run

#: Calling any function has numba load its rules for types, which takes half a second.
ZERO = numba.njit(lambda: 0)()
