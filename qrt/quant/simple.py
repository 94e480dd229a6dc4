"""Simple scaling, as introductory texts teach it: one scale, no zero point.

scale = (max - min) / 255; q = clip(round(x / scale), -127, 127); back: q * scale. It fits data that
are symmetric around 0. Where they are not, the larger side is clipped: see `error_report`, beside
the affine grid of `quantize_array(x)`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from qrt.ir import QParams
from qrt.quant.affine import quantize
from qrt.quant.choose import checked_real, positive_scale
from qrt.quant.quantized import QuantizedArray


def simple_scaling(x: Any) -> QuantizedArray:
    """int8 of `x` by simple scaling. Raises QuantizationError for what is no finite number."""
    real = checked_real(x)
    spread = float(real.max()) - float(real.min()) if real.size else 0.0
    scale = positive_scale(np.asarray(spread / 255))
    qparams = QParams(scale, np.zeros((), np.int8), np.dtype(np.int8), narrow=True)
    return QuantizedArray(quantize(real, qparams), qparams)
