"""What the scripts' server imports before it forks: most of a script's start."""
# ruff: noqa: F401

import filmvqa.cli.command  # first, since it sets variables that the others read

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

#: The first call has numba load its typing rules, which takes half a second.
ZERO = numba.njit(lambda: 0)()
