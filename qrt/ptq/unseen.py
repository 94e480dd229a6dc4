"""Static quantization without data: ranges and means by what BatchNormalization tells of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx

from qrt.errors import QuantizationError
from qrt.ptq.backends import PRODUCTS
from qrt.ptq.config import QuantConfig, config_of
from qrt.ptq.draft import Draft, Model, label
from qrt.ptq.equalize import equalize
from qrt.ptq.expected import Expected, InputRanges, expect, rows_of_channels
from qrt.ptq.plan import Plan, check_tensors, make_plan
from qrt.ptq.prepare import prepare
from qrt.ptq.qoperator import check_form, in_form
from qrt.ptq.regions import find_regions
from qrt.ptq.rows import Seen
from qrt.ptq.spreads import Spread
from qrt.ptq.static import activation_qparams, insert, needed_opset
from qrt.quant.affine import Array


def quantize_unseen(
    model: Model, given: InputRanges, config: QuantConfig | str | None, form: str = "qdq"
) -> onnx.ModelProto:
    """A static model of float `model`, whose inputs have the ranges `given`.

    Raises what `quantize_static` raises, and QuantizationError for a tensor of which nothing is
    known, and for a config that needs data.
    """
    check_form(form)
    chosen = config_of(config)
    for what, is_asked in (
        (f"rounding {chosen.rounding!r}", chosen.rounding != "nearest"),
        ("smooth", chosen.smooth is not None),
        ("reconstruct", chosen.reconstruct),
    ):
        if is_asked:
            raise QuantizationError(f"{what} needs calibration data")
    draft = prepare(model)
    draft.need_opset(needed_opset(chosen))
    if chosen.equalize:
        told = expect(draft, given).items()
        spreads = {n: Spread(x.low, x.high, x.mean**2 + x.variance) for n, x in told}
        equalize(draft, find_regions(draft), chosen, spreads)
    plan = make_plan(draft, chosen)
    check_tensors(plan, chosen)
    found = expect(draft, given)
    observers = {name: _observer(draft, found, name) for name in plan.observers()}
    means = _Means(draft, plan, found) if chosen.bias_correction else None
    return in_form(insert(draft, plan, chosen, activation_qparams(plan, observers), means), form)


@dataclass
class _Known:
    """An observer that has seen nothing and knows."""

    low: float
    high: float

    def update(self, x: Array) -> None:
        """See `Observer`."""

    def range(self, levels: int) -> tuple[float, float]:
        """See `Observer`."""
        return self.low, self.high


def _observer(draft: Draft, found: dict[str, Expected], name: str) -> _Known:
    if name not in found:
        maker = draft.producers().get(name)
        raise QuantizationError(
            f"without data nothing is known of tensor '{name}'"
            f"{'' if maker is None else f', which {label(maker)} writes'}: give calibration data,"
            " or a rule that skips what reads it"
        )
    return _Known(float(found[name].low.min()), float(found[name].high.max()))


class _Means:
    """What products multiply on average, as the only row that they see."""

    def __init__(self, draft: Draft, plan: Plan, found: dict[str, Expected]) -> None:
        self._rows: dict[str, Array] = {}
        for node in plan.nodes:
            x = found.get(node.input[0])
            w = draft.arrays.get(node.input[1]) if len(node.input) > 1 else None
            if node.op_type not in PRODUCTS or w is None or x is None:
                continue
            mean = rows_of_channels(node, w, x.mean)
            if mean is not None:
                self._rows[node.output[0]] = mean[:, None].astype(np.float32)

    def seen(
        self, draft: Draft, made: list[onnx.NodeProto], node: onnx.NodeProto, source: str
    ) -> Seen | None:
        """See `RowSource`."""
        row = self._rows.get(node.output[0])
        return None if row is None else Seen(row, row)
