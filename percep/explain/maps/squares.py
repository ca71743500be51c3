"""Side and stride of the square that slides over an image in occlusion and ablation."""

from percep.errors import InputError


def square_and_stride(
    name: str, size: tuple[int, int], side: int | None, stride: int | None, at_once: int
) -> tuple[int, int]:
    """Side and stride in pixels: a seventh of the shorter side and half of that where None is given.

    Args:
        name: of the method, for the error.
        size: height and width of the image.
        side, stride: given or None.
        at_once: squares per forward pass.

    Raises:
        InputError: a side, stride or number at once out of range.
    """
    shortest = min(size)
    side = seventh(size) if side is None else side
    stride = max(1, side // 2) if stride is None else stride
    if not 1 <= stride <= side <= shortest or at_once < 1:
        raise InputError(
            f"{name} needs 1 <= stride <= side <= {shortest} and at least 1 square at once, "
            f"got {stride}, {side} and {at_once}"
        )
    return side, stride


def seventh(size: tuple[int, int]) -> int:
    """A seventh of the shorter side in pixels, which is 32 at 224 and the step of Grad-CAM's 7x7 map."""
    return max(1, round(min(size) / 7))
