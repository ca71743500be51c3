"""State dicts as training scripts and releases write them: the network is the one the weights are of, or an error."""

import re
import warnings
from argparse import Namespace
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision import models as torchvision_models
from torchvision.models._api import WeightsEnum

from percep import models
from percep.errors import InputError
from percep.models.checkpoints import fill, read_state
from percep.models.recipes import RECIPES

SMALL = "test_resnet"  # of timm, with classes of ImageNet


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return timm.create_model(SMALL).state_dict()


def _network() -> nn.Module:
    return nn.Sequential(OrderedDict(stem=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4), head=nn.Linear(4, 2)))


def _prefixed(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in state.items()}


def _same(network: nn.Module, state: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, state[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize(
    "prefix",
    ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "module.module.", "model.", "network."],
)
@pytest.mark.parametrize("ending", ["pt", "safetensors"])
def test_prefixes_of_wrappers_are_taken_off(state: dict[str, Tensor], prefix: str, ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"weights.{ending}"
    (save_file if ending == "safetensors" else torch.save)(_prefixed(state, prefix), path)
    classifier = models.load(SMALL, source="timm", checkpoint=path)
    assert _same(classifier.network, state)
    assert not classifier.training and not any(value.requires_grad for value in classifier.parameters())


def test_a_classifier_that_was_saved_itself(state: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(state, tmp_path / "weights.pt")
    saved = models.load(SMALL, source="timm", checkpoint=tmp_path / "weights.pt")
    torch.save(saved.state_dict(), tmp_path / "classifier.pt")
    assert _same(models.load(SMALL, source="timm", checkpoint=tmp_path / "classifier.pt").network, state)


@pytest.mark.parametrize("key", ["state_dict", "model", "state_dict_ema", "model_ema", "model_state_dict", "net"])
def test_what_training_scripts_keep_beside_weights(state: dict[str, Tensor], key: str, tmp_path: Path) -> None:
    beside = {"epoch": 3, "args": Namespace(lr=0.1), "arch": "resnet", "best_acc1": torch.tensor(0.7), "scaler": {}}
    optimizer = torch.optim.SGD(_network().parameters(), momentum=0.9).state_dict()
    torch.save({key: _prefixed(state, "module."), "optimizer": optimizer, **beside}, tmp_path / "weights.pth.tar")
    assert _same(models.load(SMALL, source="timm", checkpoint=tmp_path / "weights.pth.tar").network, state)


@pytest.mark.parametrize("pair", [("state_dict", "state_dict_ema"), ("model", "model_ema"), ("model", "state_dict")])
def test_of_several_states_timms_choice_is_taken(pair: tuple[str, str], tmp_path: Path) -> None:
    values = {key: {"weight": torch.full((2,), float(i))} for i, key in enumerate(pair)}
    torch.save(values, tmp_path / "weights.pt")
    timms = timm.models.load_state_dict(str(tmp_path / "weights.pt"))
    assert timms["weight"].equal(read_state(tmp_path / "weights.pt")["weight"]) and timms["weight"].eq(1).all()


def test_states_that_nothing_tells_apart_are_named(tmp_path: Path) -> None:
    torch.save({"generator": {"a": torch.ones(1)}, "critic": {"a": torch.ones(1)}}, tmp_path / "weights.pt")
    with pytest.raises(InputError, match=r"holds several state dicts, generator, critic: save the one that is meant$"):
        read_state(tmp_path / "weights.pt")


@pytest.mark.parametrize("content", [{}, {"state_dict": {}}, {"optimizer": {"state": {}, "param_groups": []}}, 3])
def test_nothing_to_load_is_said(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "weights.pt")
    with pytest.raises(InputError, match="holds no state dict"):
        read_state(tmp_path / "weights.pt")


@pytest.mark.parametrize("content", [b"", b"no safetensors at all", b"\x08\x00\x00\x00\x00\x00\x00\x00{}    "])
def test_damaged_safetensors(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").write_bytes(content)
    with pytest.raises(InputError, match=r"weights.safetensors (cannot be read as safetensors|holds no state dict)"):
        read_state(tmp_path / "weights.safetensors")


def test_a_prefix_that_only_some_keys_have_is_named() -> None:
    state = _network().state_dict()
    some = {("module." + key if key.startswith("stem") else key): value for key, value in state.items()}
    with pytest.raises(InputError) as caught:
        fill(_network(), some, "checkpoint x.pt", "net")
    assert str(caught.value) == (
        "checkpoint x.pt does not fit net: stem.weight is missing, and 3 more; "
        "2 of its 9 keys begin with 'module.', which is removed only if all do"
    )


def test_other_entries_beside_a_prefixed_network_are_named() -> None:
    state = _prefixed(_network().state_dict(), "model.") | {"criterion.weight": torch.ones(2)}
    with pytest.raises(InputError, match=r"9 of its 10 keys begin with 'model\.'"):
        fill(_network(), state, "checkpoint x.pt", "net")


def test_a_part_of_the_network_that_is_called_as_a_wrapper_stays() -> None:
    network = nn.Sequential(OrderedDict(module=_network()))
    state = {key: value + 1 for key, value in network.state_dict().items()}
    fill(network, state, "checkpoint", "net")
    assert _same(network, state)
    twice = nn.Sequential(OrderedDict(module=_network()))
    fill(twice, _prefixed(state, "module."), "checkpoint", "net")
    assert _same(twice, state)


def test_parts_that_were_compiled_on_their_own() -> None:
    state = {key: value + 1 for key, value in _network().state_dict().items()}
    network = _network()
    fill(network, {key.replace("norm.", "norm._orig_mod."): value for key, value in state.items()}, "checkpoint", "net")
    assert _same(network, state)
    compiled = _network()
    compiled.norm = nn.Sequential(OrderedDict(_orig_mod=compiled.norm))  # as torch.compile does
    fill(compiled, {key.replace("norm.", "norm._orig_mod."): value for key, value in state.items()}, "checkpoint", "n")
    assert compiled.norm._orig_mod.weight.equal(state["norm.weight"])


def test_two_entries_for_one_place_are_refused() -> None:
    state = _network().state_dict()
    with pytest.raises(InputError, match="is not part of the network"):
        fill(_network(), state | {"norm._orig_mod.weight": torch.zeros(4)}, "checkpoint", "net")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_the_networks(dtype: torch.dtype) -> None:
    state = {
        key: value.to(dtype) if value.is_floating_point() else value for key, value in _network().state_dict().items()
    }
    network = _network()
    fill(network, state, "checkpoint", "net")
    assert all(value.dtype == torch.float32 for value in network.parameters())
    assert network.stem.weight.equal(state["stem.weight"].float())


def test_integers_are_no_weights() -> None:
    state = _network().state_dict() | {"stem.weight": torch.zeros(4, 3, 3, 3, dtype=torch.int8)}
    with pytest.raises(InputError, match=r"stem.weight is torch.int8, not floating point$"):
        fill(_network(), state, "checkpoint", "net")


def test_files_from_before_batch_norm_counted() -> None:
    """torchvision's ResNets are such files."""
    state = {key: value for key, value in _network().state_dict().items() if "tracked" not in key}
    fill(_network(), state, "checkpoint", "net")
    fill(_network(), OrderedDict(state), "checkpoint", "net")
    dated = OrderedDict(state)
    dated._metadata = _network().state_dict()._metadata
    fill(_network(), dated, "checkpoint", "net")
    with pytest.raises(InputError, match=r"running_mean is missing$"):
        fill(_network(), {key: value for key, value in state.items() if "mean" not in key}, "checkpoint", "net")


# -- torchvision's own files


def _official(name: str, state: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """What torchvision makes of a state that it downloads."""
    monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda *_, **__: OrderedDict(state))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return models.load(name, source="torchvision")


def _from_file(name: str, state: dict[str, Tensor], tmp_path: Path) -> models.Classifier:
    torch.save(state, tmp_path / "weights.pt")
    return models.load(name, source="torchvision", checkpoint=tmp_path / "weights.pt")


def _scattered(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights that let an image reach the logits."""
    torch.manual_seed(0)
    return OrderedDict(
        (key, torch.randn(value.shape) * (2 / value[0].numel()) ** 0.5 if value.ndim > 1 else value)
        for key, value in state.items()
    )


@pytest.mark.slow("large networks are built")
@pytest.mark.parametrize(("name", "heads"), [("inception_v3", "AuxLogits."), ("googlenet", "aux")])
def test_networks_that_transform_their_input(
    name: str, heads: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    state = _scattered(RECIPES["torchvision"](name).build(False).state_dict())
    assert any(key.startswith(heads) for key in state)
    official, ours = _official(name, state, monkeypatch), _from_file(name, _prefixed(state, "module."), tmp_path)
    images = torch.rand(2, 3, 96, 96)
    logits = official(images)
    assert repr(official) == repr(ours) and ours(images).equal(logits)
    headless = {key: value for key, value in state.items() if not key.startswith(heads)}
    assert _from_file(name, headless, tmp_path)(images).equal(logits)
    ours.network.transform_input = False
    assert not ours(images).allclose(logits)


def _dated(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if "num_batches_tracked" not in key}


@pytest.mark.slow("large networks are built")
def test_names_of_densenets_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = _scattered(RECIPES["torchvision"]("densenet121").build(False).state_dict())
    dated = _dated({re.sub(r"(denselayer\d+\.(?:norm|conv))([12]\.)", r"\1.\2", key): state[key] for key in state})
    official = _official("densenet121", dated, monkeypatch)
    assert _same(official.network, state)
    assert _same(_from_file("densenet121", dated, tmp_path).network, state)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_names_of_the_vision_transformers_files(prefix: str) -> None:
    def network() -> nn.Module:
        return torchvision_models.VisionTransformer(32, 16, 2, 1, 8, 16, num_classes=3)

    state = {key: value + 1 for key, value in network().state_dict().items()}
    old = {key.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2."): state[key] for key in state}
    assert old.keys() != state.keys()
    ours = network()
    fill(ours, _prefixed(old, prefix), "checkpoint", "net")
    assert _same(ours, state)


@pytest.mark.parametrize("ending", ["pt", "safetensors"])
def test_a_network_that_asks_for_its_version(ending: str, tmp_path: Path) -> None:
    state = nn.DataParallel(torchvision_models.mnasnet0_5(weights=None)).state_dict()
    path = tmp_path / f"weights.{ending}"
    (save_file if ending == "safetensors" else torch.save)(state, path)
    ours = models.load("mnasnet0_5", source="torchvision", checkpoint=path)
    assert _same(ours.network, {key.removeprefix("module."): value for key, value in state.items()})


@pytest.mark.slow("large networks are built")
@pytest.mark.parametrize("name", ["vit_h_14", "vit_b_16", "maxvit_t", "swin_v2_t", "inception_v3", "wide_resnet50_2"])
def test_a_blank_network_is_what_the_weights_imply(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """vit_h_14's are of images of 518 pixels, and its builder's default is 224."""
    weights = torchvision_models.get_model_weights(name).DEFAULT
    with torch.device("meta"):
        ours = RECIPES["torchvision"](name).build(False)
        monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda *_, **__: {})
        monkeypatch.setattr(nn.Module, "load_state_dict", lambda *_, **__: None)
        official = torchvision_models.get_model(name, weights=weights)
    assert _architecture(ours) == _architecture(official)


def _architecture(network: nn.Module) -> dict[str, Any]:
    plain = (int, float, str, bool, tuple, type(None))
    modules = {
        name: {key: value for key, value in vars(module).items() if isinstance(value, plain)}
        for name, module in network.named_modules()
    }
    return {"modules": modules, "shapes": {key: value.shape for key, value in network.state_dict().items()}}


# -- timm's


def test_an_original_release_is_read_as_timm_reads_it(tmp_path: Path) -> None:
    """ConvNeXt as Facebook's repository names it."""
    torch.manual_seed(0)
    state = timm.create_model("test_convnext").state_dict()
    original = {}
    for key, value in state.items():
        name = re.sub(r"stages\.(\d)\.blocks\.(\d)", r"stages.\1.\2", key)
        name = re.sub(r"stages\.(\d)\.downsample\.(\d)", r"downsample_layers.\1.\2", name)
        name = name.replace("stem.", "downsample_layers.0.").replace("conv_dw", "dwconv").replace("mlp.fc", "pwconv")
        name = name.replace("head.norm", "norm").replace("head.fc.", "head.")
        original[name] = value
    torch.save({"model": original}, tmp_path / "weights.pt")
    assert set(original) != set(state)
    assert _same(models.load("test_convnext", source="timm", checkpoint=tmp_path / "weights.pt").network, state)


def test_weights_for_another_input_size_are_not_reshaped(tmp_path: Path) -> None:
    torch.save(timm.create_model("test_vit", img_size=96).state_dict(), tmp_path / "weights.pt")
    with pytest.raises(InputError, match=r"pos_embed has the shape \(1, 37, 64\), not \(1, 101, 64\)$"):
        models.load("test_vit", source="timm", checkpoint=tmp_path / "weights.pt")


def test_a_vision_transformer_answers(tmp_path: Path) -> None:
    network = timm.create_model("test_vit")
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    ours = models.load("test_vit", source="timm", checkpoint=tmp_path / "weights.pt")
    images = torch.rand(2, 3, 160, 160)
    assert ours(images).equal(network.eval()((images - ours.mean) / ours.std))


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext"])
def test_anything_else_is_refused_by_every_way_in(name: str, tmp_path: Path) -> None:
    torch.save({"a.weight": torch.ones(2), "b.weight": torch.ones(2)}, tmp_path / "weights.pt")
    with pytest.raises(InputError, match=r"is missing, and .* more$"):
        models.load(name, source="timm", checkpoint=tmp_path / "weights.pt")
