"""The logits in a model's output: a tensor, or a container in which exactly one tensor can be the logits."""

from collections.abc import Mapping

from torch import Tensor

from percep.errors import InputError


def logits_of(output: object, images: Tensor) -> Tensor:
    """The logits of a batch in a model's output.

    Args:
        output: of the model: the logits; or a tuple, list, mapping or object that holds them under the name
            `logits`, or holds one floating-point tensor of their shape and no other.
        images: `(B, ...)`, what the model was given.

    Returns:
        `(B, K)`, floating point: the tensor in the output itself, so that gradients pass.

    Raises:
        InputError: logits of another shape or type, or an output in which no tensor, or several, can be the logits.
    """
    batch = len(images)
    found = output
    if not isinstance(output, Tensor):
        entries = _entries(output)
        named = entries.get("logits")
        fitting = [value for value in entries.values() if _fits(value, batch)]
        if named is None and len(fitting) != 1:
            raise InputError(_refusal(type(output).__name__, batch, bool(entries), len(fitting)))
        found = fitting[0] if named is None else named
    if not isinstance(found, Tensor):
        raise InputError(f"the model must return ({batch}, K) logits, got a {type(found).__name__} under that name")
    if not _fits(found, batch):
        kind = "" if found.is_floating_point() else f"{found.dtype} "
        raise InputError(f"the model must return ({batch}, K) logits, got {kind}{tuple(found.shape)}")
    return found


def _entries(output: object) -> dict[str, object]:
    """What a container holds, by name where it has names; a named tuple, as torchvision's Inception returns, has."""
    if isinstance(output, tuple) and hasattr(output, "_asdict"):
        return dict(output._asdict())
    if isinstance(output, Mapping):
        return {str(key): value for key, value in output.items()}
    if isinstance(output, tuple | list):
        return {str(i): value for i, value in enumerate(output)}
    entries = dict(getattr(output, "__dict__", {}))
    named = getattr(output, "logits", None)  # which may be a property
    return entries if named is None else entries | {"logits": named}


def _fits(value: object, batch: int) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.ndim == 2 and len(value) == batch


def _refusal(kind: str, batch: int, holds: bool, candidates: int) -> str:
    if not holds:
        return f"the model must return ({batch}, K) logits, got {kind}"
    article = "an" if kind[0].lower() in "aeiou" else "a"
    number = f" with {candidates} tensors of that shape" if candidates else ""
    return (
        f"the model must return ({batch}, K) logits, got {article} {kind}{number}: wrap it, lambda x: model(x).logits"
    )
