"""What quantization did to an array: errors, clipping and bytes, as numbers, a table or a plot."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from qrt.errors import QuantizationError
from qrt.quant.affine import Array
from qrt.quant.choose import checked_real


class Quantized(Protocol):
    """An array in quantized form: `QuantizedArray`, `FloatQuantizedArray`, `CodebookArray`."""

    @property
    def nbytes(self) -> int:
        """Bytes when packed."""
        ...

    def dequantize(self) -> Array:
        """The real values."""
        ...

    def clipped(self, x: Array) -> Array:
        """True where the element of `x` lies beyond the grid."""
        ...


@dataclass(frozen=True, eq=False)
class ErrorReport:
    """Errors of `back` against `x`, element by element and over all; float64."""

    x: Array
    back: Array
    clipped: float  # share of elements beyond the grid, 0 to 1
    nbytes_before: int
    nbytes_after: int

    @property
    def absolute(self) -> Array:
        """|x - back| of each element."""
        return np.asarray(np.abs(self.x - self.back))

    @property
    def percentage(self) -> Array:
        """100 * |x - back| / x of each element, signed as x is; 0 where x is 0 and so is back."""
        error = self.absolute
        with np.errstate(all="ignore"):
            found = 100 * error / self.x
        return np.where(error == 0, 0.0, found)

    @property
    def mean_absolute(self) -> float:
        """Mean of `absolute`."""
        return float(self.absolute.mean()) if self.x.size else 0.0

    @property
    def max_absolute(self) -> float:
        """Largest of `absolute`."""
        return float(self.absolute.max(initial=0.0))

    @property
    def mean_percentage(self) -> float:
        """Mean of |percentage| over the elements that are not 0."""
        some = np.abs(self.percentage[self.x != 0])
        return float(some.mean()) if some.size else 0.0

    @property
    def mse(self) -> float:
        """Mean squared error."""
        return float(((self.x - self.back) ** 2).mean()) if self.x.size else 0.0

    @property
    def sqnr(self) -> float:
        """Signal to quantization noise in dB: 10 log10(sum x^2 / sum (x - back)^2)."""
        noise = float(((self.x - self.back) ** 2).sum())
        signal = float((self.x**2).sum())
        if noise == 0:
            return float("inf")
        return 10 * float(np.log10(signal / noise)) if signal else float("-inf")

    @property
    def cosine(self) -> float:
        """Cosine of the angle between x and back; 1 where both are 0."""
        norms = float(np.linalg.norm(self.x)) * float(np.linalg.norm(self.back))
        if norms == 0:
            return 1.0 if not self.x.any() and not self.back.any() else 0.0
        return float((self.x * self.back).sum() / norms)

    def rows(self) -> list[tuple[str, str]]:
        """The table's lines."""
        before, after = self.nbytes_before, self.nbytes_after
        ratio = f"{before / after:.2f}x smaller" if after else "nothing"
        return [
            ("elements", f"{self.x.size}"),
            ("mean absolute error", f"{self.mean_absolute:.6g}"),
            ("max absolute error", f"{self.max_absolute:.6g}"),
            ("mean percentage error", f"{self.mean_percentage:.4g} %"),
            ("mean squared error", f"{self.mse:.6g}"),
            ("SQNR", f"{self.sqnr:.2f} dB"),
            ("cosine", f"{self.cosine:.6f}"),
            ("clipped", f"{100 * self.clipped:.4g} %"),
            ("bytes", f"{before} -> {after} ({ratio})"),
        ]

    def __str__(self) -> str:
        rows = self.rows()
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {text}" for name, text in rows)

    def plot(self, path: str | Path, bins: int = 80) -> None:
        """Histogram of x with the grid's values under it, as `path` says: .html or .png.

        PNG needs matplotlib. Raises QuantizationError for another suffix, or without it.
        """
        from qrt.quant.histogram import write_histogram

        write_histogram(self, Path(path), bins)


def error_report(x: Any, q: Quantized | Array) -> ErrorReport:
    """How `q`, a quantized array or real values that came back from one, differs from `x`.

    Of plain values the share clipped is unknown and counted as 0, and bytes are their own.
    """
    real = checked_real(x)
    if isinstance(q, np.ndarray):
        back, clipped, after = checked_real(q), 0.0, q.nbytes
    else:
        back, after = q.dequantize(), q.nbytes
        clipped = float(q.clipped(real).mean()) if real.size and back.shape == real.shape else 0.0
    if back.shape != real.shape:
        raise QuantizationError(
            f"both must have one shape, got {list(real.shape)} and {list(back.shape)}"
        )
    itemsize = np.asarray(x).dtype.itemsize if np.asarray(x).dtype.kind == "f" else 4
    # what a model would hold: float32, unless it was smaller already
    before = real.size * min(itemsize, 4)
    return ErrorReport(
        real.astype(np.float64), back.astype(np.float64), clipped, before, int(after)
    )
