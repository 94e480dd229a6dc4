"""SmoothQuant: wide channels of activations are narrowed, and the weights that read them widened.

Xiao et al. 2022, "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language
Models", equation 4: s_j = max|x_j|^alpha / max|w_j|^(1 - alpha) for each channel j that a product
reads; x / s and w * s have the same product. What divides by s is what writes the channels anyway
(see channels.py): the factors of a LayerNormalization, or the product before. A LayerNormalization
that others read, too, such as the residual path behind it, is written a second time for products.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np
import onnx

from qrt.ptq.calibrate import Runner
from qrt.ptq.channels import Region
from qrt.ptq.config import QuantConfig
from qrt.ptq.draft import Draft
from qrt.ptq.noise import noise, shares_grid
from qrt.ptq.regions import BLIND, find_regions
from qrt.ptq.samples import Feeds
from qrt.ptq.spreads import Spread, seen_spreads
from qrt.quant.affine import Array

LINEAR = ("Gemm", "MatMul")
GAIN = 0.9  # of the noise before: what is left must be less, or nothing is changed
TWIN_GAIN = 0.5  # the same, where it takes a second LayerNormalization (of MiniLM: 4 % of the time)


def smooth_by_data(
    draft: Draft, config: QuantConfig, feeds: Iterable[Feeds], runner: Runner
) -> list[str]:
    """Smooth what linear products read, by the ranges on `feeds`; the tensors that changed."""
    twins = write_twice(draft)
    regions = [region for region in find_regions(draft) if _is_smoothable(region, config)]
    changed = smooth(draft, regions, config, seen_spreads(draft, regions, feeds, runner), twins)
    _take_back(draft, {twin: first for twin, first in twins.items() if twin not in changed})
    return changed


def smooth(
    draft: Draft,
    regions: Sequence[Region],
    config: QuantConfig,
    spreads: Mapping[str, Spread],
    twins: Collection[str] = (),
) -> list[str]:
    """Scale channels of `regions` where that leaves less noise; the tensors that products read.

    Those written twice must gain more.
    """
    assert config.smooth is not None
    changed = []
    for region in regions:
        read = list(dict.fromkeys(part.node.input[0] for part in region.readers))
        width = np.max([spreads[name].width for name in read], axis=0)
        weights = np.max(
            [np.abs(part.by_channel(part.array(draft))).max(axis=1) for part in region.readers],
            axis=0,
        )
        scales = smoothing_scales(width, weights, config.smooth)
        before = noise(draft, region, config, spreads)
        region.scale(draft, scales)
        narrowed = {name: spreads[name].divided(scales) for name in read}
        enough = TWIN_GAIN if any(name in twins for name in read) else GAIN
        if noise(draft, region, config, narrowed) < enough * before:
            changed += read
        else:
            region.scale(draft, 1 / scales)
    return changed


def smoothing_scales(width: Array, weights: Array, alpha: float) -> Array:
    """Equation 4, with a geometric mean of 1: what is wide becomes narrow. Dead channels stay.

    width, weights: the largest of each channel (channels,), of activations and of their weights.
    """
    live = (width > 0) & (weights > 0)
    scales = np.ones(len(width))
    logs = alpha * np.log(width[live]) - (1 - alpha) * np.log(weights[live])
    if live.any():
        scales[live] = np.exp(logs - logs.mean())
    return scales


def write_twice(draft: Draft) -> dict[str, str]:
    """Give products a LayerNormalization of their own where others read it, too.

    The new tensors, and those they are copies of.
    """
    consumers, twins = draft.consumers(), {}
    nodes = []
    for node in draft.nodes:
        nodes.append(node)
        if node.op_type != "LayerNormalization":
            continue
        name = node.output[0]
        readers = [user for user in consumers.get(name, []) if _reads(draft, user, name)]
        others = [user for user in consumers.get(name, [])
                  if user.op_type not in BLIND and not any(user is r for r in readers)]  # fmt: skip
        if not readers or not (others or name in draft.outputs):
            continue
        twin = onnx.NodeProto()
        twin.CopyFrom(node)
        del twin.output[1:]
        twin.output[0] = draft.fresh(f"{name}_smooth")
        twin.name = draft.fresh(f"{node.name or name}_smooth")
        for user in readers:
            user.input[0] = twin.output[0]
        nodes.append(twin)
        twins[twin.output[0]] = name
    draft.nodes = nodes
    return twins


def _take_back(draft: Draft, twins: Mapping[str, str]) -> None:
    """Undo `write_twice` for these."""
    draft.nodes = [node for node in draft.nodes if node.output[0] not in twins]
    for node in draft.nodes:
        for i, name in enumerate(node.input):
            node.input[i] = twins.get(name, name)


def _reads(draft: Draft, user: onnx.NodeProto, name: str) -> bool:
    """True for a linear product of `name` and constant weights."""
    return user.op_type in LINEAR and user.input[0] == name and user.input[1] in draft.arrays


def _is_smoothable(region: Region, config: QuantConfig) -> bool:
    """Read by linear products only, and written by what does not mind."""
    if region.blocked or region.clips or not region.readers:
        return False
    if any(shares_grid(part, config) for part in region.writers):
        return False
    return all(part.node.op_type in LINEAR for part in region.readers)
