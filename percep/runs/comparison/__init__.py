"""task=compare."""
