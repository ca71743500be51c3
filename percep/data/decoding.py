"""Decodes image files: any format that Pillow reads, upright, to 8 bits."""

import io
import stat
import struct
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, PngImagePlugin, TiffImagePlugin

from percep.errors import InputError, one_line

SHORTEST_SIDE = 11
"""In pixels: the width of SSIM's window. A smaller photograph has no structure to compare."""

_BITS_PER_SAMPLE, _MAX_SAMPLE_VALUE = 258, 281  # tags of TIFF
_ORIENTATION = 0x0112  # the tag of EXIF; how its values from 2 on are undone:
_UPRIGHT = (
    Image.Transpose.FLIP_LEFT_RIGHT,
    Image.Transpose.ROTATE_180,
    Image.Transpose.FLIP_TOP_BOTTOM,
    Image.Transpose.TRANSPOSE,
    Image.Transpose.ROTATE_270,
    Image.Transpose.TRANSVERSE,
    Image.Transpose.ROTATE_90,
)
_PNG = b"\x89PNG\r\n\x1a\n"
# Of the chunks that a PNG can be decoded without, those that say what is transparent and what is upright.
_PNG_KEPT = {b"tRNS", b"eXIf"}
_IMAGE_CHUNK = b"IDAT"
_PNG_TEXTS = {b"XML:com.adobe.xmp", b"Raw profile type exif"}


def decode(content: Path | bytes, mode: str = "RGB") -> Image.Image:
    """The first frame of an image file in 8 bits, upright, composed on white where it is transparent.

    Damaged metadata does not make a file unusable: without a readable orientation the picture is not rotated, and texts
    and colour profiles of any size in a PNG are ignored.

    Args:
        content: a file, or what it holds.
        mode: "RGB", or "L" for grey.

    Raises:
        InputError: the reason why the file is not usable, without its name.
    """
    try:
        if isinstance(content, Path):
            _check_kind(content)
        try:
            picture = _opened(content, mode)
        except Exception:  # a text, perhaps
            bare = _without_texts(content)
            if bare is None:
                raise
            picture = _opened(bare, mode)
    except InputError:
        raise
    except Image.UnidentifiedImageError as error:
        raise InputError("not an image of a known format") from error
    except Exception as error:  # a damaged file may raise anything
        if isinstance(error, OSError) and error.strerror is not None:
            raise InputError(f"cannot be read: {error.strerror}") from error
        raise InputError(f"damaged, or too large to be read: {one_line(error)}") from error
    width, height = picture.size
    if min(width, height) < SHORTEST_SIDE:
        raise InputError(f"{width}x{height} pixels are too few: each side needs {SHORTEST_SIDE}")
    return picture


def _check_kind(path: Path) -> None:
    kind = path.stat().st_mode
    if stat.S_ISDIR(kind):
        raise InputError("a folder that cannot be listed")
    if not stat.S_ISREG(kind):
        raise InputError("not a file that can be read")


def _opened(content: Path | bytes, mode: str) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of metadata; what they are about is either not needed or a problem
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(content if isinstance(content, Path) else io.BytesIO(content)) as file:
            is_deep = _is_deep(file)
            file.load()
            if is_deep:
                _check_colours(file, content)
            return _in_8_bits(_upright(file), content, file, mode)


def _upright(picture: Image.Image) -> Image.Image:
    try:
        orientation = picture.getexif().get(_ORIENTATION)
        turn = None if orientation not in range(2, 9) else _UPRIGHT[int(orientation) - 2]  # type: ignore[arg-type]
    except Exception:  # damaged tags may raise anything
        return picture
    return picture if turn is None else picture.transpose(turn)


def _in_8_bits(picture: Image.Image, content: Path | bytes, file: ImageFile.ImageFile, mode: str) -> Image.Image:
    if picture.mode == "F" or picture.mode.startswith("I"):
        picture = _from_16_bits(picture, content, file)
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    # Whatever it is made of, grey is the luma of RGB.
    return picture if picture.mode == mode else picture.convert("RGB").convert(mode)


def _from_16_bits(picture: Image.Image, content: Path | bytes, file: ImageFile.ImageFile) -> Image.Image:
    """16-bit grey scaled to 8 bits, which Pillow's own conversion would cut off at 255."""
    levels = np.asarray(picture)
    # Pillow has no other mode for a PGM of 16 bits, which it scales to 65535.
    if picture.mode == "F" or (picture.mode == "I" and file.format != "PPM"):
        kind = "floating-point" if picture.mode == "F" else "signed or 32-bit"
        raise InputError(f"{kind} pixels have no known range: convert the image to 8 or 16 bits")
    most, bits = int(levels.max()), _bits(content, file)
    if bits is not None and most < 2**bits:
        return Image.fromarray(np.rint(levels * (255 / (2**bits - 1))).astype(np.uint8))
    if most:
        _check_range(most, declared=bits is not None or file.format == "PPM")
    return Image.fromarray(np.rint(levels / 257).astype(np.uint8))


def _bits(content: Path | bytes, file: ImageFile.ImageFile) -> int | None:
    """How many of 16 bits a file says that it uses: a PNG in sBIT, a TIFF in BitsPerSample or MaxSampleValue."""
    if isinstance(file, TiffImagePlugin.TiffImageFile):
        stored = _largest(file.tag_v2.get(_BITS_PER_SAMPLE, 16))
        largest = _largest(file.tag_v2.get(_MAX_SAMPLE_VALUE, 0))
        if stored < 16:
            return stored
        # One below a power of two is a range; another is the brightest pixel.
        return largest.bit_length() if largest > 255 and largest & (largest + 1) == 0 else None
    if file.format != "PNG":
        return None
    held = content.read_bytes() if isinstance(content, Path) else content
    for kind, chunk in _kinds(held):
        if kind == b"sBIT" and _is_sound(chunk) and len(chunk) > 12:
            return max(chunk[8:-4][:3])
        if kind == _IMAGE_CHUNK:
            break
    return None


def _largest(value: object) -> int:
    """Of a tag with a number per sample, or one for all."""
    return max(int(number) for number in (value if isinstance(value, tuple) else (value,)))


def _is_deep(file: ImageFile.ImageFile) -> bool:
    """Whether a file, not loaded yet, has 16 bits for each of several samples, of which Pillow keeps the first 8."""
    return file.mode in ("RGB", "RGBA", "RGBX", "LA") and any(";16" in str(tile) for tile in file.tile)


def _check_colours(file: ImageFile.ImageFile, content: Path | bytes) -> None:
    most = int(np.asarray(file.convert("RGB")).max())
    _check_range(256 * most + 255, declared=_bits(content, file) == 16)


def _check_range(most: int, *, declared: bool) -> None:
    """Refuses 16-bit pixels that are probably of fewer bits.

    Raises:
        InputError: the brightest is below an eighth of the range; of a range that the file declares, below 256.
    """
    if most < (256 if declared else 2**13):
        raise InputError(
            f"16-bit pixels of at most {most} of 65535 are near black, as those of 8, 10 or 12 bits are: "
            "scale them to 65535, or convert the image to 8 bits"
        )


def _without_texts(content: Path | bytes) -> bytes | None:
    """A PNG without what it can be decoded without; None where the content is no PNG."""
    if isinstance(content, Path):
        with content.open("rb") as file:
            if file.read(len(_PNG)) != _PNG:
                return None
        content = content.read_bytes()
    return _PNG + b"".join(_chunks(content)) if content.startswith(_PNG) else None


def _chunks(content: bytes) -> Iterator[bytes]:
    for kind, chunk in _kinds(content):
        needed = not kind[:1].islower()
        if needed or ((kind in _PNG_KEPT or _says_orientation(kind, chunk[8:-4])) and _is_sound(chunk)):
            yield chunk


def _kinds(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The chunks of a PNG, with their kinds."""
    place = len(_PNG)
    while place < len(content):
        length, kind = struct.unpack_from(">I4s", content, place) if place + 8 <= len(content) else (0, b"")
        yield kind, content[place : place + length + 12]
        place += length + 12


def _is_sound(chunk: bytes) -> bool:
    return struct.pack(">I", zlib.crc32(chunk[4:-4])) == chunk[-4:]


def _says_orientation(kind: bytes, content: bytes) -> bool:
    """Whether a text may hold the orientation, and is one that Pillow would read."""
    keyword, _, text = content.partition(b"\0")
    if keyword not in _PNG_TEXTS or len(text) > PngImagePlugin.MAX_TEXT_CHUNK:
        return False
    if kind == b"iTXt":
        return text[:1] == b"\0"  # not compressed
    if kind != b"zTXt":
        return kind == b"tEXt"
    try:
        inflate = zlib.decompressobj()
        inflate.decompress(text[1:], PngImagePlugin.MAX_TEXT_CHUNK)
    except zlib.error:
        return False
    return not inflate.unconsumed_tail
