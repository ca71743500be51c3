"""Maps of an image: of the perturbation, of attribution, and of their common confounds."""
