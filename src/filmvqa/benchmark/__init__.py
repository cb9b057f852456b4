"""How fast each part is, against what the hardware can do and against a reference."""
