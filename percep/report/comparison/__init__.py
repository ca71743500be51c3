"""The report of task=compare."""
