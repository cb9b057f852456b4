"""Predictions, accuracy by type of question, tables and figures."""
