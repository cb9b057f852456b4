"""The engine of all worlds: it generates questions from templates and executes programs."""
