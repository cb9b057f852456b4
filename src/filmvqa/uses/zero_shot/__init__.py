"""Answers about combinations that a network never saw, by arithmetic on γ and β."""
