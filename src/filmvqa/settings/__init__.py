"""Typed settings: each configuration key is a field of a dataclass, and a line in configs/."""
