"""Drawings of two logarithmic axes as SVG: strings made by rules, nothing to install."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from html import escape
from math import atan2, ceil, degrees, floor, log10

WIDTH, HEIGHT = 960, 560
LEFT, RIGHT, TOP, BOTTOM = 64, 24, 20, 52  # margins around the area of the plot
RADIUS = 5.0
STEPS = (1, 2, 5)  # ticks within a decade
FEW_DECADES = 3  # an axis with fewer has ticks at all steps


@dataclass(frozen=True)
class Axis:
    """A logarithmic axis from `low` to `high`, drawn from pixel `start` to pixel `stop`."""

    title: str
    low: float
    high: float
    start: float
    stop: float

    def at(self, value: float) -> float:
        """The pixel of `value`."""
        part = log10(value / self.low) / log10(self.high / self.low)
        return self.start + part * (self.stop - self.start)

    def ticks(self) -> list[float]:
        """Powers of ten; 1, 2 and 5 times them on a short axis."""
        steps = STEPS if log10(self.high / self.low) < FEW_DECADES else (1,)
        powers = range(floor(log10(self.low)), ceil(log10(self.high)) + 1)
        values = [step * 10.0**power for power in powers for step in steps]
        return [v for v in values if self.low <= v <= self.high]


def axes(x_title: str, xs: Iterable[float], y_title: str, ys: Iterable[float]) -> tuple[Axis, Axis]:
    """Axes that hold all of `xs` and `ys` (positive), with some room around them."""
    x_low, x_high = _room(list(xs))
    y_low, y_high = _room(list(ys))
    return (
        Axis(x_title, x_low, x_high, LEFT, WIDTH - RIGHT),
        Axis(y_title, y_low, y_high, HEIGHT - BOTTOM, TOP),
    )


def _room(values: list[float]) -> tuple[float, float]:
    return min(values, default=1.0) / 1.6, max(values, default=10.0) * 1.6


@dataclass
class Drawing:
    """An SVG under construction over two axes."""

    x: Axis
    y: Axis
    parts: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for value in self.x.ticks():
            at = self.x.at(value)
            self._line(at, TOP, at, HEIGHT - BOTTOM, "grid")
            self._text(at, HEIGHT - BOTTOM + 18, tick_text(value), "middle")
        for value in self.y.ticks():
            at = self.y.at(value)
            self._line(LEFT, at, WIDTH - RIGHT, at, "grid")
            self._text(LEFT - 8, at + 4, tick_text(value), "end")
        self._text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, self.x.title, "middle")
        middle = (TOP + HEIGHT - BOTTOM) / 2
        self.parts.append(
            f'<text x="16" y="{middle:.1f}" text-anchor="middle"'
            f' transform="rotate(-90 16 {middle:.1f})">{escape(self.y.title)}</text>'
        )

    def roof(self, text: str, rate: float) -> None:
        """y = rate."""
        y = self.y.at(rate)
        self._line(LEFT, y, WIDTH - RIGHT, y, "roof")
        self._text(WIDTH - RIGHT - 4, y - 6, text, "end", "roof")

    def slope(self, text: str, rate: float, top: float) -> None:
        """y = rate * x up to y = top, labelled along its lower end."""
        low = max(self.x.low, self.y.low / rate)
        high = min(self.x.high, top / rate)
        if low >= high:
            return
        x1, y1 = self.x.at(low), self.y.at(rate * low)
        x2, y2 = self.x.at(high), self.y.at(rate * high)
        self._line(x1, y1, x2, y2, "roof")
        turn = degrees(atan2(y2 - y1, x2 - x1))
        self.parts.append(
            f'<text class="roof" transform="translate({x1:.1f} {y1:.1f}) rotate({turn:.1f})"'
            f' x="10" y="-5">{escape(text)}</text>'
        )

    def point(
        self, x: float, y: float, mark: str, colour: str, tip: str, *, pale: bool = False
    ) -> None:
        """A mark, whose `tip` shows when it is pointed at."""
        shape = mark_shape(self.x.at(x), self.y.at(y), mark, colour)
        kind = ' class="pale"' if pale else ""
        self.parts.append(f"<g{kind}>{shape}<title>{escape(tip)}</title></g>")

    def bound(self, x: float, y: float, limit: float, colour: str) -> None:
        """From a point at (x, y) to its limit above or below, a tick there."""
        at, end = self.x.at(x), self.y.at(limit)
        self._line(at, self.y.at(y), at, end, "bound", colour)
        self._line(at - 6, end, at + 6, end, "bound", colour)

    def svg(self, label: str) -> str:
        """The element."""
        return (
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">'
            f"{''.join(self.parts)}</svg>"
        )

    def _line(
        self, x1: float, y1: float, x2: float, y2: float, kind: str, colour: str = ""
    ) -> None:
        stroke = f' stroke="{colour}"' if colour else ""
        self.parts.append(
            f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
            f"{stroke}/>"
        )

    def _text(self, x: float, y: float, text: str, anchor: str, kind: str = "") -> None:
        style = f' class="{kind}"' if kind else ""
        self.parts.append(
            f'<text{style} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
        )


def mark_shape(x: float, y: float, mark: str, colour: str) -> str:
    """A circle, square or diamond around a pixel."""
    style = f'class="mark" fill="{colour}"'
    r = RADIUS
    if mark == "circle":
        return f'<circle {style} cx="{x:.1f}" cy="{y:.1f}" r="{r}"/>'
    if mark == "square":
        side = 2 * r - 1
        return (
            f'<rect {style} x="{x - side / 2:.1f}" y="{y - side / 2:.1f}"'
            f' width="{side}" height="{side}"/>'
        )
    corners = ((x, y - r - 1), (x + r + 1, y), (x, y + r + 1), (x - r - 1, y))
    return f'<polygon {style} points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in corners)}"/>'


def tick_text(value: float) -> str:
    """1000000 as 1M, 0.01 as it is."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size * (1 - 1e-9):
            return f"{value / size:.10g}{unit}"
    return f"{value:.6g}"
