"""Results as a page of HTML: a roofline of products, bandwidth of the others, and the numbers.

The page loads nothing: drawings are inline, and it has no scripts.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from statistics import median

from qrt.bench.report import Machine, machine_facts
from qrt.bench.runner import Measured
from qrt.bench.svg import RADIUS, Drawing, axes, mark_shape

# told apart by colour-blind readers too (Okabe and Ito), darker where a white page needs it
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#b8860b", "#a8528c", "#4a9fd8", "#808080")
FLOAT = "_f32"  # ends the names of float32 families
HINT = "Point at a mark for its shape; while a pale one was measured the machine was busy."
STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1b; --soft: #5c5c5c; --line: #d9d9d9; --page: #fff }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e8e8; --soft: #a5a5a5; --line: #3a3a3a; --page: #161616 }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page);
       max-width: 1000px; margin: 24px auto; padding: 0 16px }
h1 { font-size: 22px } h2 { font-size: 17px; margin: 28px 0 4px }
p, dl { color: var(--soft); margin: 4px 0 }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 16px } dd { margin: 0 }
svg { width: 100%; height: auto } svg text { font-size: 12px; fill: var(--soft) }
svg text.roof { fill: var(--ink) }
line.grid { stroke: var(--line); stroke-width: 1 }
line.roof { stroke: var(--ink); stroke-width: 1.5 } line.bound { stroke-width: 1.2; opacity: .7 }
.mark { stroke: var(--page); stroke-width: 1; opacity: .9 }
.pale { opacity: .35 } g:hover .mark { stroke: var(--ink) }
.legend { display: flex; flex-wrap: wrap; gap: 2px 18px } .legend svg { width: 16px; height: 16px;
          vertical-align: -3px; margin-right: 4px }
.wide { overflow-x: auto } table { border-collapse: collapse; font-size: 13px; width: 100% }
th, td { text-align: left; padding: 3px 10px 3px 0; border-bottom: 1px solid var(--line);
         white-space: nowrap }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums }
"""


def page(machine: Machine, measured: Sequence[Measured]) -> str:
    """The whole document."""
    products = [m for m in measured if m.case.macs]
    streams = [m for m in measured if not m.case.macs]
    facts = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in machine_facts(machine))
    body = [f"<h1>Kernels of qrt</h1><dl>{facts}</dl>"]
    if products:
        body.append(_products(machine, products))
    if streams:
        body.append(_streams(streams))
    body.append(_table(measured))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Kernels of qrt</title><style>{STYLE}</style></head>\n"
        f"<body>{''.join(body)}</body></html>\n"
    )


def _products(machine: Machine, measured: Sequence[Measured]) -> str:
    """Multiply-adds per second over multiply-adds per byte, under the machine's roofs."""
    roofs = _roofs(measured)
    rates = [_macs_rate(m) for m in measured]
    x, y = axes(
        "multiply-adds per byte of inputs, weights and outputs",
        [m.intensity for m in measured],
        "10⁹ multiply-adds / s",
        [*rates, *roofs.values()],
    )
    drawing = Drawing(x, y)
    for name, rate in sorted(roofs.items(), key=lambda item: item[1]):
        drawing.roof(f"{name} {rate:.4g}", rate)
    top = max(roofs.values(), default=y.high)
    for name, rate in machine.read.items():
        drawing.slope(f"read {name} {rate:.4g} GB/s", rate, top)
    looks = _looks(measured)
    for m, rate in zip(measured, rates, strict=True):
        drawing.point(m.intensity, rate, *looks[m.case.family.name], _tip(m), pale=m.is_disturbed)
    return (
        "<h2>Products and convolutions</h2>"
        "<p>Level lines: dot-product loops on registers. Slopes: reading from each level of memory."
        f" {HINT}</p>"
        f"{_legend(looks)}{drawing.svg('roofline of products')}"
    )


def _streams(measured: Sequence[Measured]) -> str:
    """Bytes per second over bytes, each joined to its limit."""
    limits = [m.limit_rate for m in measured if m.limit_rate is not None]
    x, y = axes(
        "bytes of inputs and outputs",
        [m.footprint for m in measured],
        "GB/s",
        [*(m.rate for m in measured), *limits],
    )
    drawing = Drawing(x, y)
    looks = _looks(measured)
    for m in measured:
        if m.limit_rate is not None:
            colour = looks[m.case.family.name][1]
            drawing.bound(m.footprint, m.rate, m.limit_rate, colour)
    for m in measured:
        drawing.point(m.footprint, m.rate, *looks[m.case.family.name], _tip(m), pale=m.is_disturbed)
    return (
        "<h2>Everything else</h2>"
        "<p>The tick that a mark hangs from is a copy of as many bytes, measured beside it."
        f" {HINT}</p>"
        f"{_legend(looks)}{drawing.svg('bandwidth of other kernels')}"
    )


def _roofs(measured: Sequence[Measured]) -> dict[str, float]:
    """Limits on registers: name to 10**9 multiply-adds per second, the median of the run."""
    found: dict[str, list[float]] = {}
    for m in measured:
        for name, rate in m.loops.items():
            found.setdefault(name, []).append(rate / _per_mac(m))
    return {name: median(rates) for name, rates in found.items()}


def _per_mac(m: Measured) -> int:
    return 2 if m.unit == "GFLOP/s" else 1


def _macs_rate(m: Measured) -> float:
    return m.rate / _per_mac(m)


def _looks(measured: Sequence[Measured]) -> dict[str, tuple[str, str]]:
    """Family to mark and colour; a family's float32 is a diamond of the same colour."""
    names = list(dict.fromkeys(m.case.family.name for m in measured))
    bases = list(dict.fromkeys(name.removesuffix(FLOAT) for name in names))
    looks: dict[str, tuple[str, str]] = {}
    for name in names:
        turn, colour = divmod(bases.index(name.removesuffix(FLOAT)), len(COLOURS))
        mark = "diamond" if name.endswith(FLOAT) else ("circle", "square")[turn % 2]
        looks[name] = (mark, COLOURS[colour])
    return looks


def _legend(looks: dict[str, tuple[str, str]]) -> str:
    size = 2 * RADIUS + 4
    entries = (
        f'<span><svg viewBox="0 0 {size} {size}" aria-hidden="true">'
        f"{mark_shape(size / 2, size / 2, *look)}</svg>{escape(name)}</span>"
        for name, look in looks.items()
    )
    return f'<div class="legend">{"".join(entries)}</div>'


def _tip(m: Measured) -> str:
    text = f"{m.case.label} {m.case.name}: {m.rate:.4g} {m.unit}, {m.median_us:.1f} us"
    if m.share is not None:
        text += f", {m.share:.0%} of {m.limit}"
    if m.ratio is not None:
        text += f", onnxruntime takes {m.ratio:.2f} times as long"
    if m.is_disturbed:
        text += "; the machine was busy"
    return text


def _table(measured: Sequence[Measured]) -> str:
    titles = ("family", "shape", "us", "rate", "", "share", "of limit", "rival us", "ratio")
    numeric = {"us", "rate", "share", "rival us", "ratio"}
    head = "".join(f"<th{_numeric(t in numeric)}>{t}</th>" for t in titles)
    rows = []
    for m in measured:
        cells = (
            m.case.label,
            m.case.name,
            f"{m.median_us:.1f}",
            f"{m.rate:.1f}",
            m.unit,
            "-" if m.share is None else f"{m.share:.0%}",
            m.limit or "-",
            "-" if m.rival_us is None else f"{m.rival_us:.1f}",
            "-" if m.ratio is None else f"{m.ratio:.2f}",
        )
        tip = escape(", ".join(m.kernels), quote=True)
        row = "".join(
            f"<td{_numeric(t in numeric)}>{escape(c)}</td>"
            for t, c in zip(titles, cells, strict=True)
        )
        rows.append(f'<tr title="{tip}">{row}</tr>')
    return (
        f'<h2>Numbers</h2><div class="wide"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _numeric(is_number: bool) -> str:
    return ' class="n"' if is_number else ""
