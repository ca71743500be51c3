"""What a classifier is shown: what its source shows it, pixel for pixel, and one exception."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import timm
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from timm.data import create_transform, resolve_data_config
from torchvision import models as torchvision_models
from torchvision.transforms import InterpolationMode, Normalize
from torchvision.transforms import functional as transforms

from percep.errors import InputError
from percep.models import Preprocessing, preprocessing
from percep.models.recipes import RECIPES, timm_preprocessing

SIZES = [(131, 77), (60, 90), (101, 31)]


def _photograph(width: int, height: int, seed: int = 0) -> Image.Image:
    """Smooth colours, edges and noise."""
    generator = np.random.default_rng(seed)
    coarse = Image.fromarray(generator.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8))
    pixels = np.asarray(coarse.resize((width, height), Image.Resampling.BILINEAR)).astype(int)
    pixels[height // 3 :, width // 2 :] = 255 - pixels[height // 3 :, width // 2 :]
    return Image.fromarray((pixels + generator.integers(-20, 21, pixels.shape)).clip(0, 255).astype(np.uint8))


def _by_timm(data: Mapping[str, Any], photograph: Image.Image) -> np.ndarray:
    found = photograph
    for step in create_transform(**data, is_training=False).transforms:
        if not isinstance(step, Normalize):
            found = step(found)
    return (found * 255).round().byte().permute(1, 2, 0).numpy()


def _timm_classifiers() -> Iterator[tuple[str, dict[str, Any]]]:
    for name in timm.list_pretrained():
        weights = timm.get_pretrained_cfg(name)
        if weights.num_classes:
            yield name, resolve_data_config(pretrained_cfg=weights.to_dict())


def _kind(data: Mapping[str, Any]) -> tuple[Any, ...]:
    return data["input_size"], data["crop_pct"], data["crop_mode"], data["interpolation"]


@pytest.mark.slow("a photograph for each way in which networks of timm are shown one")
def test_every_classifier_of_timm_is_shown_what_timm_shows_it() -> None:
    kinds: dict[tuple[Any, ...], tuple[str, dict[str, Any]]] = {}
    for name, data in _timm_classifiers():
        channels, height, width = data["input_size"]
        assert (channels, height) == (3, width), name
        recipe = RECIPES["timm"](name)
        assert recipe.preprocessing == timm_preprocessing(data), name
        assert (tuple(recipe.mean), tuple(recipe.std)) == (tuple(data["mean"]), tuple(data["std"])), name
        kinds.setdefault(_kind(data), (name, data))
    assert len(kinds) > 50 and {kind[2] for kind in kinds} == {"center", "squash"}
    for i, (name, data) in enumerate(kinds.values()):
        photograph = _photograph(*SIZES[i % len(SIZES)], seed=i)
        seen = RECIPES["timm"](name).preprocessing(photograph)
        assert np.array_equal(np.asarray(seen), _by_timm(data, photograph)), name


@pytest.mark.parametrize("crop_pct", [1.0, 0.9, 0.6, 1.15])
@pytest.mark.parametrize("interpolation", ["bilinear", "lanczos", "nearest"])
@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize("size", [*SIZES, (33, 32), (5, 90)])
def test_every_crop_mode_of_timm(size: tuple[int, int], crop_mode: str, interpolation: str, crop_pct: float) -> None:
    given = {
        "crop_mode": crop_mode,
        "interpolation": interpolation,
        "crop_pct": crop_pct,
        "input_size": (3, 32, 32),
        "mean": (0.5, 0.2, 0.9),
    }
    data = resolve_data_config(pretrained_cfg=given)
    photograph = _photograph(*size)
    seen = timm_preprocessing(data)(photograph)
    assert np.array_equal(np.asarray(seen), _by_timm(data, photograph))


def test_every_classifier_of_torchvision_is_shown_what_torchvision_shows_it() -> None:
    kinds = set()
    names = torchvision_models.list_models(module=torchvision_models)
    for i, name in enumerate(names):
        preset = torchvision_models.get_model_weights(name).DEFAULT.transforms()
        ours = RECIPES["torchvision"](name)
        assert (list(ours.mean), list(ours.std)) == (preset.mean, preset.std), name
        assert (preset.resize_size, preset.crop_size) == ([ours.preprocessing.resize], [ours.preprocessing.crop])
        kind = (ours.preprocessing.resize, ours.preprocessing.crop, ours.preprocessing.interpolation)
        if kind not in kinds:
            kinds.add(kind)
            photograph = _photograph(*SIZES[i % len(SIZES)], seed=i)
            seen = transforms.to_tensor(ours.preprocessing(photograph))
            assert transforms.normalize(seen, preset.mean, preset.std).equal(preset(photograph)), name
    assert len(names) > 70 and len(kinds) > 10


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize("channels", [1, 3])
def test_what_has_the_inputs_size_is_shown_as_it_is(channels: int, crop_mode: str) -> None:
    photograph = _photograph(32, 32).convert("L" if channels == 1 else "RGB")
    prepare = Preprocessing(40, 32, channels=channels, crop_mode=crop_mode)
    assert prepare(photograph).tobytes() == photograph.tobytes()
    again = prepare(_photograph(70, 41))
    assert again.mode == photograph.mode and again.size == (32, 32)
    assert prepare(again).tobytes() == again.tobytes()  # as a run's own files are


def test_only_that_size_is_an_exception() -> None:
    photograph = _photograph(40, 40)
    centre = photograph.crop((4, 4, 36, 36))
    assert Preprocessing(40, 32)(photograph).tobytes() == centre.tobytes()
    assert Preprocessing(40, 32)(_photograph(32, 33)).tobytes() != _photograph(32, 33).crop((0, 0, 32, 32)).tobytes()


def test_grey_networks_see_grey() -> None:
    photograph = _photograph(50, 40)
    seen = Preprocessing(28, 28, channels=1)(photograph)
    assert seen.mode == "L" and seen.size == (28, 28)
    assert seen.tobytes() == Preprocessing(28, 28, channels=1)(photograph.convert("L")).tobytes()


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(1, 90), st.integers(1, 90)),
    st.integers(8, 40).flatmap(lambda resize: st.tuples(st.just(resize), st.integers(1, 44))),
    st.sampled_from(["nearest", "bilinear", "bicubic", "box", "hamming", "lanczos", "nearest-exact"]),
)
def test_the_centre_alone_is_the_centre_of_the_whole(
    size: tuple[int, int], sides: tuple[int, int], interpolation: str
) -> None:
    """The filter is placed by other numbers, so that levels differ by roundings, and ties of nearest by a pixel.

    Pillow rounds between its two passes, and which side it begins with depends on what is cheaper, for the whole
    another one than for its centre: either order is the whole.
    """
    prepare = Preprocessing(*sides, InterpolationMode(interpolation))
    stepped = interpolation.startswith("nearest") or interpolation == "box"
    photograph = _ramp(*size) if stepped else _photograph(*size)
    if size == (prepare.crop, prepare.crop):
        return
    width, height = prepare._covering(photograph)
    resampling = Image.Resampling[prepare.interpolation.name.removesuffix("_EXACT")]
    orders = [photograph.resize(one, resampling) for one in ((width, size[1]), (size[0], height))]
    resized = [one.resize((width, height), resampling) for one in orders]
    wholes = [np.asarray(transforms.center_crop(one, [prepare.crop])).astype(int) for one in resized]
    part = prepare._centre(photograph, width, height)
    centre = np.asarray(transforms.center_crop(part, [prepare.crop])).astype(int)
    assert min(np.abs(whole - centre).max() for whole in wholes) <= 2


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
def test_the_centre_of_a_long_strip_is_found_to_a_rounding(interpolation: str) -> None:
    prepare = Preprocessing(48, 40, InterpolationMode(interpolation))
    strip = _photograph(100_003, 25)
    whole = np.asarray(prepare(strip)).astype(int)
    centre = np.asarray(transforms.center_crop(prepare._centre(strip, *prepare._covering(strip)), [40])).astype(int)
    assert np.abs(whole - centre).max() <= 1
    assert (whole == centre).mean() > 0.95


def _ramp(width: int, height: int) -> Image.Image:
    """Neighbours differ by one level."""
    levels = (np.arange(width) + np.arange(height)[:, None]).astype(np.uint8)
    return Image.fromarray(np.stack([levels, levels, 255 - levels], 2))


def test_a_thin_strip_costs_no_more_memory_than_its_input(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[int, int]] = []
    resize = Image.Image.resize

    def recorded(image: Image.Image, size: tuple[int, int], *arguments: Any, **others: Any) -> Image.Image:
        made.append(tuple(size))
        return resize(image, size, *arguments, **others)

    monkeypatch.setattr(Image.Image, "resize", recorded)
    strip = Image.linear_gradient("L").resize((400_000, 3))
    assert Preprocessing(256, 224)(strip).size == (224, 224)
    assert Preprocessing(256, 224)(strip.transpose(Image.Transpose.ROTATE_90)).size == (224, 224)
    for crop_mode in ("squash", "border"):
        assert Preprocessing(256, 224, crop_mode=crop_mode)(strip).size == (224, 224)
    assert max(width * height for width, height in made[1:]) <= preprocessing._MOST_PIXELS


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"resize": 0, "crop": 224}, "resize and crop must be at least 1"),
        ({"resize": 224, "crop": 0}, "resize and crop must be at least 1"),
        ({"resize": 224, "crop": 224, "channels": 4}, "channels must be 1"),
        ({"resize": 224, "crop": 224, "crop_mode": "pad"}, "crop_mode must be center"),
    ],
)
def test_settings_that_cannot_be(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Preprocessing(**arguments)
