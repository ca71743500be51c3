"""The report of task=explain."""
