"""What reads finished runs: evaluations, sweeps, curves and figures."""
