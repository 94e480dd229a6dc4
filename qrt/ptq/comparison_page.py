"""A comparison as one HTML page that needs nothing else: a plot over the layers, and a table."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from qrt.ptq.comparison import Comparison, LayerError

WIDTH, HEIGHT = 1060, 340  # of the plot, in pixels
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 14, 44  # margins
MOST, STEP = 80.0, 10.0  # dB: what is above is drawn at the top; between lines
NAMED = 6  # layers whose names stand in the plot
BAR = 90  # pixels of a table's longest bar
LOCAL, ACCUMULATED = "#d55e00", "#0072b2"  # told apart by those who see no red or green, too
STYLE = f"""
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 24px auto;
padding: 0 16px; color: #1b1b1b }}
h1 {{ font-size: 24px; overflow-wrap: anywhere }}
svg {{ width: 100%; height: auto }} svg text {{ font-size: 12px; fill: #5c5c5c }}
table {{ border-collapse: collapse; font-size: 13px; width: 100% }}
th, td {{ padding: 3px 14px 3px 0; text-align: left; border-bottom: 1px solid #ddd }}
.n {{ text-align: right; white-space: nowrap }} .rank {{ color: #5c5c5c }}
.bar {{ height: 10px; min-width: 1px }}
.key {{ display: inline-block; width: 12px; height: 12px; border-radius: 6px; margin-right: 5px;
vertical-align: -1px }}
.told {{ margin-right: 20px }}
.local {{ background: {LOCAL} }} .accumulated {{ background: {ACCUMULATED} }}
"""


def page(found: Comparison, title: str) -> str:
    """The whole page."""
    head = (
        '<tr><th class="n">#</th><th>operator</th><th>tensor</th>'
        '<th colspan="2">local</th><th colspan="2">accumulated</th>'
        '<th class="n">largest</th><th>cause</th></tr>'
    )
    most = max((v for e in found.layers for v in _finite(e)), default=1.0)
    rows = "".join(_row(rank, layer, min(most, MOST)) for rank, layer in enumerate(found.layers, 1))
    outputs = ", ".join(f"{escape(name)} {_text(sqnr)}" for name, sqnr in found.outputs)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>"
        f"<h1>{escape(title)}</h1>"
        f"<p>Signal to quantization noise over {found.samples} samples, in dB, more is better."
        f" Outputs of the graph: {outputs}.</p>"
        '<p><span class="key local"></span><span class="told">local: the layer alone, on exact'
        ' inputs</span><span class="key accumulated"></span><span class="told">accumulated: with'
        " all that came before</span>Numbers: places in the table. Largest: the largest"
        " difference, accumulated.</p>"
        f"{_plot(found.layers)}"
        f"<table><thead>{head}</thead><tbody>{rows}</tbody></table></body></html>\n"
    )


def _plot(layers: Sequence[LayerError]) -> str:
    """Both SQNRs over the layers in the order of the graph; the worst by name."""
    ordered = sorted(layers, key=lambda e: e.position)
    values = [v for e in ordered for v in _finite(e)]
    high = min(MOST, STEP * np.ceil(max(values, default=STEP) / STEP))
    low = min(0.0, max(-MOST, STEP * np.floor(min(values, default=0.0) / STEP)))
    wide, tall = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    each = wide / max(len(ordered), 1)

    def across(i: int) -> float:
        return LEFT + each * (i + 0.5)

    def down(sqnr: float) -> float:
        return float(TOP + tall * (high - min(max(sqnr, low), high)) / max(high - low, 1e-9))

    parts = []
    for level in np.arange(low, high + STEP / 2, STEP):
        y = down(level)
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>'
            f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{level:.0f}</text>'
        )
    parts.append(
        f'<text x="{LEFT + wide / 2:.0f}" y="{HEIGHT - 8}" text-anchor="middle">layers in the order'
        " of the graph</text>"
        f'<text transform="translate(14 {TOP + tall / 2:.0f}) rotate(-90)" text-anchor="middle">'
        "dB</text>"
    )
    points = [
        (across(i), down(e.accumulated_sqnr))
        for i, e in enumerate(ordered)
        if e.accumulated_sqnr != np.inf
    ]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    parts.append(
        f'<polyline points="{line}" fill="none" stroke="{ACCUMULATED}" stroke-width="1.5"/>'
    )
    size = float(np.clip(each / 3, 1.5, 4.5))
    for i, e in enumerate(ordered):
        x = across(i)
        for sqnr, color in ((e.accumulated_sqnr, ACCUMULATED), (e.local_sqnr, LOCAL)):
            if sqnr == np.inf:
                continue  # exact: nothing to see
            parts.append(
                f'<circle cx="{x:.1f}" cy="{down(sqnr):.1f}" r="{size:.1f}" fill="{color}">'
                f"<title>{escape(_told(e))}</title></circle>"
            )
    parts += _names(ordered, layers[:NAMED], across, down)
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="SQNR of every layer">'
        f"{''.join(parts)}</svg>"
    )


def _names(ordered: Sequence[LayerError], worst: Sequence[LayerError], across, down) -> list[str]:  # type: ignore[no-untyped-def]
    """The worst layers' numbers, as in the table, beside their points."""
    places = {e.tensor: i for i, e in enumerate(ordered)}
    return [
        f'<text x="{across(places[e.tensor]):.1f}" y="{down(e.local_sqnr) + 17:.1f}"'
        f' text-anchor="middle" style="fill: {LOCAL}; font-weight: 600">{rank}</text>'
        for rank, e in enumerate(worst, 1)
        if np.isfinite(e.local_sqnr)
    ]


def _row(rank: int, layer: LayerError, most: float) -> str:
    cells = "".join(
        f'<td class="n">{_text(v)}</td><td><div class="bar {kind}" style="width:'
        f'{max(0.0, min(v, most)) / max(most, 1e-9) * BAR:.0f}px"></div></td>'
        for v, kind in ((layer.local_sqnr, "local"), (layer.accumulated_sqnr, "accumulated"))
    )
    tensor = escape(layer.tensor).replace("/", "/<wbr>")
    return (
        f'<tr><td class="n rank">{rank}</td><td>{escape(layer.op)}</td><td>{tensor}</td>{cells}'
        f'<td class="n">{layer.largest:.4g}</td><td>{escape(layer.cause)}</td></tr>'
    )


def _told(e: LayerError) -> str:
    text = (
        f"{e.op} {e.tensor}: local {_text(e.local_sqnr)}, accumulated {_text(e.accumulated_sqnr)}"
    )
    return f"{text}; {e.cause}" if e.cause else text


def _text(sqnr: float) -> str:
    return "exact" if sqnr == float("inf") else f"{sqnr:.1f}"


def _finite(e: LayerError) -> list[float]:
    return [v for v in (e.local_sqnr, e.accumulated_sqnr) if np.isfinite(v)]
