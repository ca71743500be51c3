"""Checks of integers and of levels in (0, 1), of any numeric type."""

import math
import operator
from numbers import Real
from typing import SupportsIndex, cast

import torch
from torch import Tensor

from percep.errors import InputError


def as_integer(value: object) -> int | None:
    """The integer that a value is: Python's, NumPy's or torch's; None for anything else, booleans and 3.0 included."""
    if isinstance(value, bool) or (isinstance(value, Tensor) and value.dtype == torch.bool):
        return None
    try:
        return operator.index(cast(SupportsIndex, value))
    except TypeError:
        return None


def require_integer(name: str, value: object, least: int) -> int:
    """The integer that a value is; raises InputError for what is none, or below the least."""
    number = as_integer(value)
    if number is None:
        raise InputError(f"{name} must be an integer, got {shown(value)}")
    if number < least:
        raise InputError(f"{name} must be at least {least}, got {number}")
    return number


def require_level(name: str, value: object) -> float:
    """The number in (0, 1) that a value is; raises InputError for any other, NaN, booleans, text and several."""
    number = as_number(value)
    if number is None or not 0 < number < 1:
        raise InputError(f"{name} must lie in (0, 1), got {shown(value)}")
    return number


def require_ssim(name: str, value: object) -> float:
    """As `require_level`, in [-1, 1]: any value that SSIM takes."""
    number = as_number(value)
    if number is None or not -1 <= number <= 1:
        raise InputError(f"{name} must lie in [-1, 1], got {shown(value)}")
    return number


def require_positive(name: str, value: object) -> float:
    """The finite number above 0 that a value is; raises InputError for any other."""
    number = as_number(value)
    if number is None or not 0 < number < math.inf:
        raise InputError(f"{name} must be positive, got {shown(value)}")
    return number


def as_number(value: object) -> float | None:
    """The real number that a value is: Python's, NumPy's or torch's; None for anything else, booleans included."""
    if isinstance(value, Tensor) and value.ndim == 0 and not value.is_complex() and value.dtype != torch.bool:
        return float(value.detach())
    return float(value) if isinstance(value, Real) and not isinstance(value, bool) else None


def shown(value: object) -> str:
    """A value on one line."""
    if isinstance(value, int | float | str | None):
        return repr(value)
    shape = getattr(value, "shape", None)
    return type(value).__name__ if not shape else f"{type(value).__name__} {tuple(shape)}"
