"""Photographs: finding, labelling and decoding them, and every file that cannot be used."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from percep import data
from percep.errors import InputError, UnavailableError
from percep.models import Preprocessing

SIDE = 16
WHOLE = Preprocessing(resize=SIDE, crop=SIDE)
CLASSES = {"0": 0, "1": 1, "2": 2, "tabby cat": 0, "beagle": 1, "jeep": 2, "n1": 0, "n2": 1, "n3": 2}

rng = np.random.default_rng(0)
GREY = rng.integers(0, 256, (SIDE, SIDE), dtype=np.uint8)
COLOUR = rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)


def _write(path: Path, picture: Image.Image | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (Image.fromarray(COLOUR) if picture is None else picture).save(path)
    return path


def _levels(path: Path) -> np.ndarray:
    """The 8-bit levels of the one photograph, `(H, W, 3)`."""
    (photograph,) = data.image(path, WHOLE)
    assert photograph.problem is None
    levels = photograph.image * 255
    assert photograph.image.dtype == torch.float32
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-4)
    return levels.round().to(torch.uint8).permute(1, 2, 0).numpy()


def _problem(folder: Path) -> str:
    """The problem of the one unusable photograph among others in a folder."""
    photographs = list(data.folder(folder, WHOLE, CLASSES))
    (bad,) = [photograph for photograph in photographs if photograph.problem is not None]
    assert bad.image is None
    assert "\n" not in bad.problem
    assert bad.problem.startswith("unreadable: ")
    assert all(photograph.image is not None for photograph in photographs if photograph is not bad)
    return bad.problem


def test_samples_are_twenty_labelled_photographs() -> None:
    photographs = list(data.samples(Preprocessing(resize=64, crop=56)))
    assert len({photograph.name for photograph in photographs}) == 20
    assert [photograph.label for photograph in photographs[:3]] == [243, 559, 438]
    assert all(photograph.image.shape == (3, 56, 56) for photograph in photographs)


def test_samples_need_foolbox(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "find_spec", lambda name: None)
    with pytest.raises(UnavailableError, match=r"pip install 'percep\[demo\]'"):
        data.samples(WHOLE)


def test_levels_survive_unchanged(tmp_path: Path) -> None:
    assert np.array_equal(_levels(_write(tmp_path / "photo.png")), COLOUR)


def test_greyscale_and_palette(tmp_path: Path) -> None:
    grey = Image.fromarray(GREY)
    expected = np.repeat(GREY[..., None], 3, axis=2)
    assert np.array_equal(_levels(_write(tmp_path / "grey.png", grey)), expected)
    assert np.array_equal(_levels(_write(tmp_path / "palette.png", grey.convert("P"))), expected)
    bilevel = _levels(_write(tmp_path / "bilevel.png", Image.fromarray(GREY > 127)))
    assert np.array_equal(bilevel, (expected > 127) * 255)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bits_are_scaled_not_cut_off(suffix: str, tmp_path: Path) -> None:
    path = _write(tmp_path / f"deep{suffix}", Image.fromarray(GREY.astype(np.uint16) * 257))
    assert np.array_equal(_levels(path), np.repeat(GREY[..., None], 3, axis=2))


@pytest.mark.parametrize("pixels", [np.ones((SIDE, SIDE), np.float32), np.full((SIDE, SIDE), 70000, np.int32)])
def test_deeper_pixels_are_a_problem(pixels: np.ndarray, tmp_path: Path) -> None:
    path = _write(tmp_path / "deep.tif", Image.fromarray(pixels))
    with pytest.raises(InputError, match=r"deep\.tif: .* 8 or 16 bits"):
        data.image(path, WHOLE)


def test_cmyk(tmp_path: Path) -> None:
    path = _write(tmp_path / "print.jpg", Image.new("CMYK", (SIDE, SIDE), (0, 255, 255, 0)))
    assert np.abs(_levels(path).astype(int) - [255, 0, 0]).max() <= 3


def test_transparency_is_composed_on_white(tmp_path: Path) -> None:
    alpha = np.zeros((SIDE, SIDE, 1), np.uint8)
    alpha[0] = 255
    picture = Image.fromarray(np.concatenate([COLOUR, alpha], axis=2))
    levels = _levels(_write(tmp_path / "alpha.png", picture))
    assert np.array_equal(levels[0], COLOUR[0])
    assert (levels[1:] == 255).all()
    clear = _write(tmp_path / "grey.png", Image.new("LA", (SIDE, SIDE), (0, 0)))
    assert (_levels(clear) == 255).all()
    path = tmp_path / "palette.png"
    palette = Image.new("P", (SIDE, SIDE), 1)
    palette.putpalette([0, 0, 0, 9, 9, 9])
    palette.save(path, transparency=1)
    assert (_levels(path) == 255).all()


def test_photographs_stand_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    path = tmp_path / "turned.png"
    Image.fromarray(COLOUR).save(path, exif=exif)
    assert np.array_equal(_levels(path), np.rot90(COLOUR, -1))


def _text(path: Path) -> None:
    path.write_text("this is not a photograph\n")


def _truncated(path: Path) -> None:
    content = _write(path, Image.fromarray(np.tile(COLOUR, (20, 20, 1)))).read_bytes()
    path.write_bytes(content[: len(content) // 2])


def _empty(path: Path) -> None:
    path.touch()


def _one_pixel(path: Path) -> None:
    _write(path, Image.new("RGB", (1, 1)))


def _bomb(path: Path) -> None:
    Image.new("1", (10_000, 10_000)).save(path, format="PNG")


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (_text, "not an image"),
        (_empty, "not an image"),
        (_truncated, "truncated"),
        (_one_pixel, "1x1 pixels are too few"),
        (_bomb, "too large"),
    ],
)
def test_one_bad_file_is_one_problem(spoil: Callable[[Path], None], problem: str, tmp_path: Path) -> None:
    _write(tmp_path / "first.png")
    spoil(tmp_path / "middle.jpg")
    _write(tmp_path / "last.png")
    assert problem in _problem(tmp_path)
    with pytest.raises(InputError, match=problem):
        data.image(tmp_path / "middle.jpg", WHOLE)


def test_files_are_read_one_by_one(tmp_path: Path) -> None:
    _write(tmp_path / "a.png")
    _write(tmp_path / "b.png")
    photographs = data.folder(tmp_path, WHOLE, CLASSES)
    assert len(photographs) == 2
    following = iter(photographs)
    assert next(following).image is not None
    (tmp_path / "b.png").unlink()
    assert "No such file" in next(following).problem
    assert [photograph.name for photograph in photographs.first(1)] == ["a"]


def test_loose_images_have_no_label(tmp_path: Path) -> None:
    for name in ("b.jpg", "a.PNG", ".hidden.png"):
        _write(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "empty").mkdir()
    photographs = list(data.folder(tmp_path, WHOLE, CLASSES))
    assert [(photograph.name, photograph.label) for photograph in photographs] == [("a", None), ("b", None)]


@pytest.mark.parametrize("names", [("0", "2"), ("tabby cat", "jeep"), ("tabby_cat", "jeep"), ("n1", "n3"), ("n1", "2")])
def test_class_folders_by_index_name_or_wordnet_id(names: tuple[str, str], tmp_path: Path) -> None:
    for name in names:
        _write(tmp_path / name / "deeper" / "photo.png")
    photographs = list(data.folder(tmp_path, WHOLE, CLASSES))
    expected = {f"{names[0].replace(' ', '_')}_deeper_photo": 0, f"{names[1]}_deeper_photo": 2}
    assert {photograph.name: photograph.label for photograph in photographs} == expected


def test_as_many_class_folders_as_classes_are_in_order(tmp_path: Path) -> None:
    for name in ("wolf", "ant", "bear"):
        _write(tmp_path / name / "photo.png")
    labels = {photograph.name: photograph.label for photograph in data.folder(tmp_path, WHOLE, CLASSES)}
    assert labels == {"ant_photo": 0, "bear_photo": 1, "wolf_photo": 2}


@pytest.mark.parametrize("names", [("wolf",), ("0", "3"), ("1", "2", "3"), ("wolf", "ant", "bear", "cow")])
def test_labels_outside_the_classes(names: tuple[str, ...], tmp_path: Path) -> None:
    for name in names:
        _write(tmp_path / name / "photo.png")
    with pytest.raises(InputError, match=r"labels outside the model's classes: .*3 classes"):
        data.folder(tmp_path, WHOLE, CLASSES)


def test_loose_images_beside_class_folders(tmp_path: Path) -> None:
    _write(tmp_path / "photo.png")
    _write(tmp_path / "jeep" / "photo.png")
    with pytest.raises(InputError, match="beside the class folder jeep"):
        data.folder(tmp_path, WHOLE, CLASSES)


def test_missing_and_empty_folders(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a folder"):
        data.folder(tmp_path / "missing", WHOLE, CLASSES)
    with pytest.raises(InputError, match="holds no images"):
        data.folder(tmp_path, WHOLE, CLASSES)
    with pytest.raises(InputError, match="is not a file"):
        data.image(tmp_path / "missing.png", WHOLE)


def test_names_are_unique_and_safe(tmp_path: Path) -> None:
    for name in ("a b.png", "a:b.png", "A_B.png", "a_b.jpg", "é" * 80 + ".png", "é" * 80 + "x.png"):
        _write(tmp_path / name)
    names = [entry.name for entry in data.folder(tmp_path, WHOLE, CLASSES).entries]
    assert names == ["A_B", "a_b-2", "a_b-3", "a_b-4", "é" * 60, "é" * 60 + "-2"]
