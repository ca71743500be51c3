"""What the results of a run depend on beside its settings."""

import hashlib

import torch

from percep import kernels
from percep.data import Survey
from percep.models import Classifier
from percep.report import versions


def basis(model: Classifier, photographs: Survey, device: str) -> dict[str, str]:
    """Versions, photographs, weights, kernels, and on a CPU the number of threads, by name."""
    found = {f"version of {name}": version for name, version in versions().items()}
    found |= {"photographs": photographs.digest, "weights": weights_digest(model)}
    found["kernels (PERCEP_KERNELS)"] = kernels.described(torch.device(device))
    if device == "cpu":  # sums are split among threads
        found["threads (OMP_NUM_THREADS)"] = str(torch.get_num_threads())
    return found


def weights_digest(model: Classifier) -> str:
    """Changes when a weight or a statistic of a network does."""
    digest = hashlib.blake2b(digest_size=16)
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.cpu().contiguous().view(torch.uint8).numpy() if value.ndim else repr(value).encode())
    return digest.hexdigest()
