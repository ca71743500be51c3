"""A task of one's own, as docs/extending.md describes it; tests/runs/test_tasks.py runs it."""
