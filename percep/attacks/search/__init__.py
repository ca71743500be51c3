"""The parts of `percep.attacks.MinimalPerturbation`: a batch's search, and the objects it is made of."""
