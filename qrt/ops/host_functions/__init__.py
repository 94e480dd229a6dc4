"""Host operators that qrt computes itself: one file each, and the one list of them.

They are operators, or older meanings of operators, for which `onnx.reference` has no implementation
or a wrong one. Everything else that has no kernel is evaluated by `onnx.reference`.
"""

from __future__ import annotations

from qrt.ir import Node
from qrt.ir.domains import onnx_domain
from qrt.ops.host_functions import (
    batch_normalization,
    category_mapper,
    global_lp_pool,
    grid_sample,
    group_normalization,
    integer_products,
    label_encoder,
    max_pool,
    max_roi_pool,
    mean_variance_normalization,
    multinomial,
    resize,
    roi_align,
    scatter,
    softmax,
)
from qrt.ops.host_functions.spec import HostFunctionSpec

HOST_FUNCTIONS: tuple[HostFunctionSpec, ...] = (
    batch_normalization.SPEC,
    category_mapper.SPEC,
    global_lp_pool.SPEC,
    grid_sample.SPEC,
    group_normalization.SPEC,
    *integer_products.SPECS,
    label_encoder.SPEC,
    max_pool.SPEC,
    max_roi_pool.SPEC,
    mean_variance_normalization.SPEC,
    multinomial.SPEC,
    *resize.SPECS,
    roi_align.SPEC,
    scatter.SPEC,
    *softmax.SPECS,
)


def own_function(node: Node) -> HostFunctionSpec | None:
    """The entry of the list that means `node`; None where `onnx.reference` is to be asked."""
    domain = onnx_domain(node)
    for spec in HOST_FUNCTIONS:
        if (spec.domain, spec.op) == (domain, node.op) and spec.means(node.version):
            return spec
    return None


__all__ = ["HOST_FUNCTIONS", "HostFunctionSpec", "own_function"]
