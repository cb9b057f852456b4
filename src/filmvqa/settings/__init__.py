"""Typed settings: a key is a field of a dataclass here, and a line in configs/."""
