"""What the operating system and the machine give: files, locks, memory, devices, processes."""
