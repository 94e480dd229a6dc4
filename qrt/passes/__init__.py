"""Passes: one rewrite a file, its docstring the equation, the pipeline a list.

`optimize` does what needs no shapes, `specialize` what does; docs/machine.md says what comes out.
Both give a graph of their own and leave the one they were given as it was. `bind_values` makes
inputs constant that a program cannot be built without (`specialised_inputs`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from qrt.ir import Graph
from qrt.passes.batchnorm import fold_batchnorm
from qrt.passes.chains import fuse_chains
from qrt.passes.clipped_ranges import clip_ranges
from qrt.passes.dead import remove_dead
from qrt.passes.expand import expand_projections
from qrt.passes.fold import bind_values, fold_constants
from qrt.passes.found_ranges import share_ranges
from qrt.passes.gelus import fuse_gelus
from qrt.passes.identities import drop_identities
from qrt.passes.layout import choose_layouts
from qrt.passes.masked_softmax import mask_softmax
from qrt.passes.narrow import narrow_quantize
from qrt.passes.normalizations import fuse_normalizations
from qrt.passes.pads import absorb_pads
from qrt.passes.raise_quantize import raise_quantize
from qrt.passes.ranks import infer_ranks
from qrt.passes.recognise import recognise
from qrt.passes.reshapes import merge_reshapes
from qrt.passes.same_names import drop_contrib_names
from qrt.passes.shapes import bind_shapes
from qrt.passes.signed_codes import quantize_signed
from qrt.passes.sink_copies import sink_copies
from qrt.passes.stages import (
    Learned,
    SingleNode,
    TensorStage,
    plan_stages,
    prepare_stages,
)
from qrt.passes.values import late_inputs, specialised_inputs

__all__ = [
    "Learned", "SingleNode", "TensorStage", "bind_values", "late_inputs", "optimize", "plan_stages",
    "prepare_stages", "specialised_inputs", "specialize",
]  # fmt: skip

Pass = Callable[[Graph], Graph]

# in this order; each takes a graph it may change and gives the one to go on with
OPTIMIZE: list[Pass] = [
    drop_contrib_names,
    expand_projections,
    fold_constants,
    drop_identities,
    narrow_quantize,
    fold_batchnorm,
    remove_dead,
    infer_ranks,
    fold_constants,
    fuse_gelus,
    recognise,
    remove_dead,
    absorb_pads,
    remove_dead,
    clip_ranges,
    quantize_signed,
]
SPECIALIZE: list[Pass] = [
    remove_dead,
    fuse_gelus,
    fuse_normalizations,
    merge_reshapes,
    remove_dead,
    raise_quantize,
    mask_softmax,
    choose_layouts,
    sink_copies,
    fuse_chains,
    share_ranges,
]


def optimize(graph: Graph, features: frozenset[str] = frozenset()) -> Graph:
    """The machine form of a loaded graph, for any input shape. `features` is what the CPU has."""
    graph = graph.copy()  # subgraphs wait until `bind_shapes` knows the types of what they read
    for rewrite in OPTIMIZE:
        graph = rewrite(graph)
    return graph


def specialize(graph: Graph, shapes: Mapping[str, tuple[int, ...]]) -> Graph:
    """The machine graph of `optimize` for inputs of these shapes (by name), memory order chosen.

    Raises UnsupportedError for a node that the machine does not run, ModelError for shapes that
    do not fit each other; both name the node.
    """
    return _ordered(bind_shapes(graph.copy(), shapes, optimize))


def _ordered(graph: Graph) -> Graph:
    """SPECIALIZE, in the branches of a program too."""
    for rewrite in SPECIALIZE:
        graph = rewrite(graph)
    for node in graph.nodes:
        node.attrs.update((name, _ordered(inner)) for name, inner in node.subgraphs.items())
    return graph
