"""Evaluation: batches, predictions, and scores by type of question."""
