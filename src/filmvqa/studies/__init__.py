"""What is learned about networks: sweeps, claims, inspection and search."""
