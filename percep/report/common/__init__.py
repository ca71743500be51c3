"""What the reports share: pages, tables, plots, pictures and what is said of a run."""
