"""task=explain."""
