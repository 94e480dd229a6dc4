"""Exact integer Winograd F(4x4, 3x3): a 3x3 convolution of stride 1 by 36 products per 16 outputs.

Of a 6x6 piece d of one input channel and its 3x3 kernel g, with the rows of Lavin and Gray (2015)
scaled to integers and ' for transposition,

    M = (KERNEL g KERNEL') * (INPUT d INPUT')                                   element by element
    9 * 2**(EXPONENTS[a] + EXPONENTS[b]) * y[a, b] = (OUTPUT M OUTPUT')[a, b]

where all but the products of M is linear, so that M is summed over channels first. Sums, and what
follows them, may wrap: the equation holds modulo 2**32. There 9 has an inverse, and an arithmetic
shift divides by the power of two, exactly while -LIMIT <= y < LIMIT: 2**6 * LIMIT = 2**31.

Factors fit int16 whatever x and the weights are: a row of INPUT sums to at most 8 of one sign and
2 of the other, so |INPUT d INPUT'| <= (8 * 8 + 2 * 2) * 255 = 17340; |KERNEL g KERNEL'| <= 7 * 7 *
255 = 12495 (weights minus a zero point have nine bits). Two products fit int32, as vpmaddwd needs.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
OUT = 4  # outputs of a tile along an axis
IN = 6  # inputs of a tile along an axis
POSITIONS = IN * IN  # products of a tile

INPUT = (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)
KERNEL = ((6, 0, 0), (-1, -1, -1), (-1, 1, -1), (1, 2, 4), (1, -2, 4), (0, 0, 6))
OUTPUT = ((1, 4, 4, 1, 1, 0), (0, 2, -2, 1, -1, 0), (0, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 1))
EXPONENTS = (3, 2, 1, 1)
INVERSE_9 = pow(9, -1, 2**32)
LIMIT = 2**25

# column 1 of OUTPUT is 2**EXPONENTS / 2: what is added to the sums of this position, times
# BIAS_FACTOR, is added to each of the 16 outputs
BIAS_POSITION = IN + 1
BIAS_FACTOR = 36


def transform_weights(w: Array) -> Array:
    """KERNEL g KERNEL' of w (n, channels, 3, 3), |w| <= 255. Returns int16 (36, n, channels)."""
    n, channels = w.shape[:2]
    rows = np.array(KERNEL, np.int32)
    half = np.tensordot(rows, w.astype(np.int32), (1, 2))  # (6, n, channels, 3)
    full = np.tensordot(rows, half, (1, 3))  # (6 of the width, 6 of the height, n, channels)
    return full.swapaxes(0, 1).reshape(POSITIONS, n, channels).astype(np.int16)
