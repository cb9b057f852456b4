"""The speed of each part, compared with the hardware's limits and with a reference."""
