"""Runs over any number of photographs and processes: batches dealt out, parts written whole, and one table of them."""
