"""What a comparison of two models found: a table, or a page (`comparison_page.py`)."""

from __future__ import annotations

from dataclasses import dataclass

from qrt.ptq.comparison_page import page


@dataclass(frozen=True)
class LayerError:
    """A tensor that both models have. SQNRs in dB, the largest difference as accumulated.

    `position` is its place in the order of the graph.
    """

    tensor: str
    op: str
    position: int
    local_sqnr: float
    accumulated_sqnr: float
    largest: float
    cause: str = ""


@dataclass(frozen=True)
class Comparison:
    """Layers, the one of least local SQNR first; SQNR in dB of each output of the graph."""

    layers: tuple[LayerError, ...]
    outputs: tuple[tuple[str, float], ...]
    samples: int

    def table(self, most: int | None = None) -> str:
        """Text, a line per layer."""
        rows = [("local dB", "accumulated dB", "largest", "layer", "cause")]
        for layer in self.layers[:most]:
            rows.append(
                (
                    decibels(layer.local_sqnr),
                    decibels(layer.accumulated_sqnr),
                    f"{layer.largest:.4g}",
                    f"{layer.op} {layer.tensor}",
                    layer.cause,
                )
            )
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        return "\n".join(
            "  ".join([*(f"{row[i]:>{widths[i]}}" for i in range(3)),
                       f"{row[3]:<{widths[3]}}", row[4]]).rstrip()
            for row in rows
        )  # fmt: skip

    def page(self, title: str) -> str:
        """One self-contained HTML page: the layers as a plot and as a table."""
        return page(self, title)


def decibels(sqnr: float) -> str:
    """Signal to noise; `exact` where nothing differs."""
    return "exact" if sqnr == float("inf") else f"{sqnr:.1f}"
