"""task=attack and task=minimal."""
