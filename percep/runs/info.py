"""What percep runs on: versions, devices, and where the weights of a model come from."""

from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from urllib.parse import urlparse

import timm
import torch
from torchvision import models as torchvision_models

from percep.environment import devices, versions
from percep.models.recipes import NETWORKS, PACKAGED, Packaged
from percep.runs.config import InfoTask, ModelConfig
from percep.runs.task import Request


def info(config: InfoTask, _: Request) -> Sequence[str]:
    """task=info, lines for people: versions, devices, the model of the configuration and the origin of its weights."""
    sections = (versions().items(), devices(), _weights(config.model))
    return ["\n\n".join("\n".join(f"{name:<12} {value}" for name, value in section) for section in sections)]


def _weights(model: ModelConfig) -> Iterator[tuple[str, str]]:
    name = model.name if model.network is None else model.network["_target_"]
    yield "model", f"{name}, of the source {model.source}"
    yield "weights", _origin(model)


def _origin(model: ModelConfig) -> str:
    if model.checkpoint is not None:
        path = Path(model.checkpoint)
        return f"file {path.absolute()}" + ("" if path.is_file() else ", which is not there")
    known = _SOURCES[model.source](model.name)
    return known or f"unknown: the source {model.source} has no model of this name"


def _of_package(name: str) -> str | None:
    return _package(PACKAGED[name]) if name in PACKAGED else None


def _of_torchvision(name: str) -> str | None:
    if name not in torchvision_models.list_models(module=torchvision_models):
        return None
    weights = torchvision_models.get_model_weights(name).DEFAULT
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(weights.url).path).name
    return f"{weights}, {weights.url}, {_kept(file)}"


def _of_timm(name: str) -> str | None:
    if not timm.is_model(name):
        return None
    try:
        weights = timm.get_pretrained_cfg(name)
    except RuntimeError:
        return f"unknown: timm has no such weights of {name.partition('.')[0]}"
    hub = getattr(weights, "hf_hub_id", None)
    if hub:
        return f"Hugging Face hub, {hub}, downloaded on first use and kept by its library"
    return getattr(weights, "url", None) or "none known: give model.checkpoint=FILE"


_SOURCES: dict[str, Callable[[str], str | None]] = {
    "packaged": _of_package,
    "torchvision": _of_torchvision,
    "timm": _of_timm,
    "custom": lambda _: "those the network is built with: model.checkpoint=FILE gives others",
}


def _package(packaged: Packaged) -> str:
    """The package of the weights, and what to do where it or that of the network is not installed."""
    try:
        version = metadata.version(packaged.distribution)
        metadata.version(NETWORKS)
    except metadata.PackageNotFoundError as error:
        return f"package {packaged.distribution}: {error.name} is not installed, pip install 'percep[{packaged.extra}]'"
    return f"package {packaged.distribution} {version}, installed: no download"


def _kept(file: Path) -> str:
    return f"downloaded to {file}" if file.is_file() else f"to be downloaded to {file} on first use"
