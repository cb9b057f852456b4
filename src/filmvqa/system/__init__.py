"""The operating system and the machine: files, locks, memory, devices, processes."""
