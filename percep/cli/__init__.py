"""The `percep` command: a configuration in, a folder with a report, adversarial photographs and tables out."""
