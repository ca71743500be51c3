"""Control experiments and causal experiments: randomised gradients, maps and models, regions and curves."""
