"""The plot of an error report: where the values lie, and where the grid has points for them."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from qrt.errors import QuantizationError
from qrt.files import whole_file
from qrt.quant.affine import Array

if TYPE_CHECKING:
    from qrt.quant.report import ErrorReport

WIDTH, HEIGHT, MARGIN, RUG = 900, 360, 48, 40  # pixels
MOST_POINTS = 400  # grid points drawn; of more only some
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 960px; margin: 24px auto; color: #1b1b1b }
table { border-collapse: collapse } td { padding: 2px 16px 2px 0; border-bottom: 1px solid #ddd }
svg { width: 100%; height: auto } text { font-size: 12px; fill: #5c5c5c }
"""


def write_histogram(report: ErrorReport, path: Path, bins: int) -> None:
    """See `ErrorReport.plot`; the file appears whole or not at all."""
    suffix = path.suffix.lower()
    if suffix not in (".html", ".png"):
        raise QuantizationError(f"a plot is written as .html or .png, got {path.name!r}")
    data = _page(report, bins).encode() if suffix == ".html" else _png(report, bins)
    with whole_file(path) as file:
        file.write(data)


def _grid(report: ErrorReport) -> Array:
    """The values that came back, each once; of very many an even choice."""
    points = np.unique(report.back)
    if points.size > MOST_POINTS:
        points = points[np.linspace(0, points.size - 1, MOST_POINTS).astype(int)]
    return points


def _page(report: ErrorReport, bins: int) -> str:
    counts, edges = np.histogram(report.x, bins, _range(report.x))
    points = _grid(report)
    low, high = min(edges[0], points.min(initial=0)), max(edges[-1], points.max(initial=0))
    span = (high - low) or 1.0

    def at(value: float) -> float:
        return float(MARGIN + (value - low) / span * (WIDTH - 2 * MARGIN))

    top, floor = MARGIN / 2, HEIGHT - MARGIN - RUG
    tallest = counts.max(initial=1) or 1
    parts = []
    for count, left, right in zip(counts, edges[:-1], edges[1:], strict=True):
        tall = (floor - top) * count / tallest
        parts.append(
            f'<rect x="{at(left):.2f}" y="{floor - tall:.2f}" width="{at(right) - at(left):.2f}"'
            f' height="{tall:.2f}" fill="#4a9fd8"><title>{left:.5g} to {right:.5g}:'
            f" {count}</title></rect>"
        )
    for point in points:
        x = at(point)
        parts.append(
            f'<line x1="{x:.2f}" x2="{x:.2f}" y1="{floor + 6}" y2="{floor + RUG - 6}"'
            f' stroke="#d55e00"/>'
        )
    for value in _round_values(low, high):
        parts.append(
            f'<text x="{at(value):.1f}" y="{HEIGHT - MARGIN + 18}" text-anchor="middle">'
            f"{value:.4g}</text>"
        )
    parts.append(
        f'<text x="{MARGIN - 6}" y="{top + 10:.0f}" text-anchor="end">{tallest}</text>'
        f'<text x="{MARGIN - 6}" y="{floor:.0f}" text-anchor="end">0</text>'
    )
    rows = "".join(f"<tr><td>{escape(a)}</td><td>{escape(b)}</td></tr>" for a, b in report.rows())
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>Quantization error</title><style>{STYLE}</style></head><body>"
        "<h1>Quantization error</h1><p>Blue: how many values lie where. Orange: the values that"
        " the quantized array has.</p>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="histogram">'
        f"{''.join(parts)}</svg><table>{rows}</table></body></html>\n"
    )


def _range(x: Array) -> tuple[float, float]:
    """Of x, wide enough for bins where all of it is one value."""
    low, high = (float(x.min()), float(x.max())) if x.size else (0.0, 1.0)
    least = 1e-6 * max(abs(low), abs(high)) or 1.0
    return (low, high) if high - low > least else (low - least, high + least)


def _round_values(low: float, high: float) -> list[float]:
    """Some four to ten values of 1, 2 or 5 times a power of ten apart, within the range."""
    apart = (high - low) / 4 or 1.0
    ten = 10.0 ** np.floor(np.log10(apart))
    step = next(ten * m for m in (5.0, 2.0, 1.0) if ten * m <= apart * (1 + 1e-9))
    first = int(np.ceil(low / step - 1e-9))
    last = int(np.floor(high / step + 1e-9))
    return [float(i * step) for i in range(first, last + 1)]


def _png(report: ErrorReport, bins: int) -> bytes:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise QuantizationError(
            "a PNG needs matplotlib: pip install matplotlib, or write .html"
        ) from None
    from io import BytesIO

    figure = Figure(figsize=(9, 4))
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(6, 1))
    above.hist(report.x.reshape(-1), bins, range=_range(report.x), color="#4a9fd8")
    above.set_ylabel("values")
    above.set_title(f"SQNR {report.sqnr:.1f} dB, clipped {100 * report.clipped:.3g} %")
    below.vlines(_grid(report), 0, 1, color="#d55e00", linewidth=0.8)
    below.set_yticks([])
    below.set_xlabel("value; below, what the quantized array has")
    file = BytesIO()
    figure.savefig(file, format="png", dpi=110)
    return file.getvalue()
