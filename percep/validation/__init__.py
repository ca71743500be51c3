"""What public functions ask of their arguments, said once: the check, and the error that names the remedy."""
