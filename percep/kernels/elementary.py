"""Logarithm and exponential of float32 in Numba's loops: by arithmetic alone, which becomes vector instructions.

The C library's are called number by number, which takes ten times as long.
"""

import math

import numpy as np
from numba import njit

# Of fused multiplications nothing is lost; sums keep their order, which splits the logarithm of 2 in two.
_compiled = njit(fastmath={"contract", "nsz"}, error_model="numpy", cache=True)
_HALF, _ONE, _TWO, _ROOT = (np.float32(value) for value in (0.5, 1, 2, math.sqrt(2)))
_LN2_HIGH, _LN2_LOW = np.float32(355 / 512), np.float32(math.log(2) - 355 / 512)
_LOG2_E = np.float32(1 / math.log(2))
_BIAS, _SHIFT, _FRACTION, _BITS_OF_ONE = (np.int32(value) for value in (127, 23, 0x7FFFFF, 0x3F800000))
# Of atanh and of exp at 0.
_A3, _A5, _A7, _A9 = (np.float32(1 / k) for k in (3, 5, 7, 9))
_E2, _E3, _E4, _E5, _E6, _E7 = (np.float32(1 / math.factorial(k)) for k in range(2, 8))


@_compiled
def log(value):
    """The logarithm of a normal positive number, to 2e-7 of 1 or of the result, whichever is larger.

    It is `e log 2 + 2 atanh(s)` with `value = 2^e (1 + s) / (1 - s)` and |s| < 0.172.
    """
    bits = np.float32(value).view(np.int32)
    exponent = np.float32((bits >> _SHIFT) - _BIAS)
    fraction = np.int32((bits & _FRACTION) | _BITS_OF_ONE).view(np.float32)
    above = fraction > _ROOT
    fraction = _HALF * fraction if above else fraction
    exponent = exponent + _ONE if above else exponent
    s = (fraction - _ONE) / (fraction + _ONE)
    q = s * s
    return exponent * _LN2_HIGH + (
        exponent * _LN2_LOW + _TWO * s * (_ONE + q * (_A3 + q * (_A5 + q * (_A7 + q * _A9))))
    )


@_compiled
def exp(value):
    """The exponential of a number between -80 and 80, to 2e-7 of it: `2^n exp(r)` with |r| < 0.347."""
    n = np.floor(value * _LOG2_E + _HALF)
    r = (value - n * _LN2_HIGH) - n * _LN2_LOW
    small = _ONE + r * (_ONE + r * (_E2 + r * (_E3 + r * (_E4 + r * (_E5 + r * (_E6 + r * _E7))))))
    return small * np.int32((np.int32(n) + _BIAS) << _SHIFT).view(np.float32)
