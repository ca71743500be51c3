"""Maps of an image: of what changed, of what a classifier looks at, and of what may explain both."""
