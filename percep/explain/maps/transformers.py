"""The transformers of timm: the layer that Grad-CAM reads, and the patches among its outputs as a map."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Tokens:
    """How a transformer lays out its patches.

    Attributes:
        layer: dotted name of the first normalisation of the last block, as pytorch-grad-cam recommends: where logits
            are read from a class token, no patch has a gradient behind that block's attention.
        prefix: how many tokens come before the patches, a class token for instance.
        grid: height and width in patches, of outputs `(B, N, C)`; None where outputs are `(B, H, W, C)`.
    """

    layer: str
    prefix: int = 0
    grid: tuple[int, int] | None = None

    def has_map(self, shape: Shape) -> bool:
        """Whether outputs of this shape are all tokens, or all patches."""
        if self.grid is None:
            return len(shape) == 4
        return len(shape) == 3 and shape[1] == self.prefix + self.grid[0] * self.grid[1]

    def as_map(self, outputs: Tensor) -> Tensor:
        """The patches among such outputs, `(B, C, H, W)`."""
        patches = outputs if self.grid is None else outputs[:, self.prefix :].unflatten(1, self.grid)
        return patches.movedim(-1, 1)


def tokens_of(network: nn.Module, shapes: Mapping[str, Shape]) -> Tokens | None:
    """The tokens of the first of timm's transformers in a network; None where it neither is one nor holds one.

    These are vision transformers, of any number of prefix tokens and size of the image, their kin that count their
    prefix tokens too (DeiT, BEiT, EVA, CaiT), and hierarchical ones whose outputs are `(B, H, W, C)` (Swin).

    Args:
        network: of any kind.
        shapes: of the outputs of its modules that are called once, by their dotted names.
    """
    for name, module in network.named_modules():
        place = f"{name}." if name else ""
        for last in _last_blocks(module):
            tokens = _tokens(module, place, f"{place}{last}.norm1", shapes)
            if tokens is not None:
                return tokens
    return None


def _tokens(module: nn.Module, place: str, layer: str, shapes: Mapping[str, Shape]) -> Tokens | None:
    shape, embedding = shapes.get(layer, ()), shapes.get(f"{place}patch_embed.proj", ())
    if len(shape) == 4 and getattr(module, "output_fmt", None) == "NHWC":
        return Tokens(layer)
    if len(shape) == 3 and len(embedding) == 4:
        height, width = embedding[2:]
        prefix = shape[1] - height * width
        # CaiT's class token is given to blocks of its own, behind those of the patches.
        if prefix in (0, getattr(module, "num_prefix_tokens", None)):
            return Tokens(layer, prefix, (height, width))
    return None


def _last_blocks(module: nn.Module) -> Iterator[str]:
    """Names of what would be the last block of a transformer without stages, and of one with stages."""
    block, stage = _last(module, "blocks"), _last(module, "layers")
    if block:
        yield block
    if stage and (inner := _last(module.get_submodule(stage), "blocks")):
        yield f"{stage}.{inner}"


def _last(module: nn.Module, name: str) -> str | None:
    """The name of the last in a module's list of modules of this name, if it has such a list."""
    found = getattr(module, name, None)
    if isinstance(found, nn.Sequential | nn.ModuleList) and len(found):
        return f"{name}.{len(found) - 1}"
    return None
