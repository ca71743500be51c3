"""What percep's solvers cost next to conic ones at the same certified gap: `python -m benchmarks.solvers`."""
