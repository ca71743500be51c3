"""The report of task=attack and task=minimal."""
