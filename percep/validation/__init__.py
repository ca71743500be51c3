"""The checks of public functions' arguments, each with an error that names the remedy."""
