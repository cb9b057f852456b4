"""Hyperparameter search with Optuna; each trial is an ordinary training run."""
