"""The tasks of the command over any number of photographs and processes."""
