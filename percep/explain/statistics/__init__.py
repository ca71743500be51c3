"""Similarity of two maps per image, and inference over images."""
