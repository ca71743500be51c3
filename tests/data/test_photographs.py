"""Photographs: finding, labelling and decoding them, and every file that cannot be used."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from percep import data
from percep.data.decoding import decode
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
    monkeypatch.setattr("percep.data.photographs.find_spec", lambda name: None)
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


def test_32_bit_integers_have_no_known_range(tmp_path: Path) -> None:
    """0..255 in an int32 TIFF was read as 0..255 of 65535, near black."""
    path = _write(tmp_path / "deep.tif", Image.fromarray(GREY.astype(np.int32)))
    with pytest.raises(InputError, match="signed or 32-bit pixels have no known range"):
        data.image(path, WHOLE)
    shallow = _write(tmp_path / "shallow.png", Image.fromarray(GREY.astype(np.uint16)))
    with pytest.raises(InputError, match=r"16-bit pixels of at most 25[0-5] of 65535 are near black"):
        data.image(shallow, WHOLE)


TWELVE = np.linspace(0, 4095, SIDE * SIDE).round().astype(np.uint16).reshape(SIDE, SIDE)
TWELVE_IN_8 = np.rint(TWELVE / 4095 * 255).astype(np.uint8)


def _with_chunk(path: Path, kind: bytes, content: bytes) -> None:
    held = path.read_bytes()
    path.write_bytes(held[:33] + _chunk(kind, content) + held[33:])


class TestTwelveBits:
    """0..4095 in 16 bits would be read near black."""

    @pytest.mark.parametrize("suffix", [".png", ".tif"])
    def test_refused_where_the_file_does_not_say_so(self, suffix: str, tmp_path: Path) -> None:
        path = _write(tmp_path / f"deep{suffix}", Image.fromarray(TWELVE))
        with pytest.raises(
            InputError, match=r"at most 4095 of 65535 are near black.*: scale them to 65535, or convert"
        ):
            data.image(path, WHOLE)
        bright = TWELVE.copy()
        bright[0, 0] = 8192  # an eighth
        levels = _levels(_write(path, Image.fromarray(bright)))
        assert np.array_equal(levels[..., 0], np.rint(bright / 257))

    def test_a_png_that_says_so(self, tmp_path: Path) -> None:
        path = _write(tmp_path / "deep.png", Image.fromarray(TWELVE))
        _with_chunk(path, b"sBIT", bytes([12]))
        assert np.array_equal(_levels(path)[..., 0], TWELVE_IN_8)
        assert np.array_equal(np.asarray(decode(path.read_bytes()))[..., 0], TWELVE_IN_8)
        full = (TWELVE.astype(np.uint32) * 65535 // 4095).astype(np.uint16)  # scaled, as the PNG specification says
        _with_chunk(_write(path, Image.fromarray(full)), b"sBIT", bytes([12]))
        assert np.array_equal(_levels(path)[..., 0], np.rint(full / 257))
        _with_chunk(_write(path, Image.fromarray(TWELVE)), b"sBIT", bytes([16]))  # dark, and so it says
        assert np.array_equal(_levels(path)[..., 0], np.rint(TWELVE / 257))

    def test_a_tiff_that_says_so(self, tmp_path: Path) -> None:
        path = tmp_path / "deep.tif"
        Image.fromarray(TWELVE).save(path, tiffinfo={281: 4095})
        assert np.array_equal(_levels(path)[..., 0], TWELVE_IN_8)
        Image.fromarray(TWELVE).save(path, tiffinfo={281: 4000})  # the brightest pixel, perhaps
        with pytest.raises(InputError, match="near black"):
            data.image(path, WHOLE)

    def test_a_pgm_says_so(self, tmp_path: Path) -> None:
        path = tmp_path / "deep.pgm"
        path.write_bytes(b"P5 16 16 4095\n" + (TWELVE // 8).astype(">u2").tobytes())
        assert np.abs(_levels(path)[..., 0].astype(int) - np.rint(TWELVE // 8 / 4095 * 255)).max() <= 1

    @pytest.mark.parametrize("kind", [2, 6])
    def test_colours(self, kind: int, tmp_path: Path) -> None:
        """Pillow keeps the first 8 of 16 bits."""
        channels = 3 if kind == 2 else 4
        for levels, is_dark in ((TWELVE, True), (TWELVE * 16, False)):
            pixels = np.repeat(levels[..., None], channels, axis=2)
            if channels == 4:
                pixels[..., 3] = 65535
            rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
            head = struct.pack(">IIBBBBB", SIDE, SIDE, 16, kind, 0, 0, 0)
            chunks = _chunk(b"IHDR", head) + _chunk(b"IDAT", zlib.compress(rows)) + _chunk(b"IEND", b"")
            path = tmp_path / "deep.png"
            path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
            if is_dark:
                with pytest.raises(InputError, match="at most 4095 of 65535 are near black"):
                    data.image(path, WHOLE)
            else:
                assert np.array_equal(_levels(path)[..., 0], levels >> 8)


def test_a_pgm_of_16_bits(tmp_path: Path) -> None:
    path = tmp_path / "deep.pgm"
    path.write_bytes(b"P5 16 16 65535\n" + (GREY.astype(np.uint16) * 257).astype(">u2").tobytes())
    assert np.array_equal(_levels(path), np.repeat(GREY[..., None], 3, axis=2))


def test_grey_networks_read_grey(tmp_path: Path) -> None:
    grey = Preprocessing(resize=SIDE, crop=SIDE, channels=1)
    _write(tmp_path / "a.png", Image.fromarray(GREY))
    _write(tmp_path / "b.png", Image.fromarray(np.full((SIDE, SIDE, 3), (255, 0, 0), np.uint8)))
    clear = np.zeros((SIDE, SIDE, 2), np.uint8)
    _write(tmp_path / "c.png", Image.fromarray(clear, "LA"))
    images = [photograph.image for photograph in data.folder(tmp_path, grey, CLASSES)]
    assert all(image.shape == (1, SIDE, SIDE) for image in images)
    assert np.array_equal((images[0][0] * 255).round().numpy(), GREY)
    assert abs(float(images[1].mean()) - 0.299) < 0.002  # ITU-R BT.601
    assert (images[2] == 1).all()


def test_the_first_frame_of_many(tmp_path: Path) -> None:
    frames = [Image.fromarray(COLOUR), Image.new("RGB", (SIDE, SIDE), "red")]
    for name in ("moving.png", "pages.tif"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        assert np.array_equal(_levels(tmp_path / name), COLOUR)


def _ifd(*entries: tuple[int, int, bytes]) -> bytes:
    head = b"Exif\0\0II*\0" + struct.pack("<LH", 8, len(entries))
    return head + b"".join(struct.pack("<HHL", tag, kind, 1) + value for tag, kind, value in entries) + bytes(4)


TURNED = (0x112, 3, struct.pack("<HH", 6, 0))


@pytest.mark.parametrize("suffix", [".png", ".webp", ".jpg"])
@pytest.mark.parametrize(
    ("exif", "turned"),
    [
        (_ifd(TURNED), True),
        (_ifd(TURNED, (0x11A, 9, struct.pack("<l", -72))), True),  # a resolution below 0
        (_ifd(TURNED, (0x111, 2, b"a\0\0\0")), True),  # an offset as text
        (_ifd(TURNED, (0x8769, 9, struct.pack("<l", -5))), True),  # further tags before the file's start
        (_ifd(TURNED, TURNED)[:-9], True),  # cut off after the orientation
        (_ifd(TURNED)[:14], False),  # and before
        (_ifd((0x112, 3, struct.pack("<HH", 9, 0))), False),
        (_ifd((0x112, 3, struct.pack("<HH", 0, 0))), False),
        (_ifd((0x112, 2, b"6\0\0\0")), False),
        (b"Exif\0\0junk", False),
    ],
)
def test_odd_tags_cost_no_photograph(suffix: str, exif: bytes, turned: bool, tmp_path: Path) -> None:
    path = tmp_path / f"odd{suffix}"
    wide = Image.linear_gradient("L").convert("RGB").resize((40, 20))
    wide.save(path, exif=exif, **({"lossless": True} if suffix == ".webp" else {}))
    assert decode(path).size == ((20, 40) if turned else (40, 20))


def _chunk(kind: bytes, content: bytes, *, sound: bool = True) -> bytes:
    check = zlib.crc32(kind + content) ^ (not sound)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)


LARGE = zlib.compress(bytes(3_000_000))
XMP = b"XML:com.adobe.xmp\0\0\0\0\0<tiff:Orientation>6</tiff:Orientation>"


@pytest.mark.parametrize(
    "chunks",
    [
        [_chunk(b"zTXt", b"key\0\0" + LARGE)],
        [_chunk(b"iTXt", b"key\0\1\0\0\0" + LARGE)],
        [_chunk(b"iCCP", b"profile\0\0" + LARGE)],
        [_chunk(b"iCCP", b"profile\0\7unknown")],
        [_chunk(b"tEXt", b"key\0text", sound=False)],
        [_chunk(b"acTL", b"\0")],
        [_chunk(b"pHYs", b"\0")],
        [_chunk(b"zTXt", b"key\0\0" + LARGE), _chunk(b"iTXt", XMP)],
    ],
)
def test_what_a_png_does_not_need_costs_it_nothing(chunks: list[bytes], tmp_path: Path) -> None:
    content = _write(tmp_path / "plain.png").read_bytes()
    path = tmp_path / "odd.png"
    path.write_bytes(content[:33] + b"".join(chunks) + content[33:])
    expected = np.rot90(COLOUR, -1) if any(XMP in chunk for chunk in chunks) else COLOUR
    assert np.array_equal(_levels(path), expected)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="damaged"):
        data.image(path, WHOLE)


def test_a_photograph_that_memory_does_not_hold_is_one_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "strip", "z"):
        _write(tmp_path / f"{name}.png", Image.new("RGB", (40 if name == "strip" else 20, 20)))
    resized = Preprocessing.__call__

    def full(preprocessing: Preprocessing, photograph: Image.Image) -> Image.Image:
        if photograph.size[0] == 40:
            raise MemoryError
        return resized(preprocessing, photograph)

    monkeypatch.setattr(Preprocessing, "__call__", full)
    found = {one.name: one.problem for one in data.folder(tmp_path, WHOLE, CLASSES)}
    assert found == {"a": None, "strip": "unreadable: too large to be read: MemoryError", "z": None}


@pytest.mark.parametrize("method", ["stat", "open"])
def test_a_photograph_that_cannot_be_accessed_is_one_row(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "closed", "z"):
        _write(tmp_path / f"{name}.png")
    photographs = data.folder(tmp_path, WHOLE, CLASSES)
    asked = Path.stat

    def stat(path: Path, **options: bool) -> object:
        if path.name == "closed.png":
            raise PermissionError(13, "Permission denied")
        return asked(path, **options)

    opened = Path.open

    def open_file(path: Path, *mode: str) -> object:
        if path.name == "closed.png":
            raise PermissionError(13, "Permission denied")
        return opened(path, *mode)

    if method == "stat":
        monkeypatch.setattr(Path, "stat", stat)
    else:
        monkeypatch.setattr(Path, "open", open_file)
        read = Image.open
        monkeypatch.setattr(Image, "open", lambda path: read(open_file(path, "rb")))
    found = {one.name: one.problem for one in photographs}
    assert found == {"a": None, "closed": "unreadable: cannot be read: Permission denied", "z": None}


def test_a_short_repr(tmp_path: Path) -> None:
    _write(tmp_path / "jeep" / "a.png")
    photographs = data.folder(tmp_path, WHOLE, CLASSES)
    assert repr(photographs) == "Photographs(1)"
    assert repr(next(iter(photographs))) == "Photograph('jeep_a', 3x16x16, label=2)"


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
