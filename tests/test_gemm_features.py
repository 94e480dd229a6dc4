"""Products and depthwise convolutions with each CPU feature switched off by itself.

Such sets of features are no level, and no CPU; what is left must still be enough for what is taken.
"""

from __future__ import annotations

from itertools import product as combinations

import numpy as np
import pytest
from product_cases import (
    Tally,
    conv_node,
    conv_sums,
    draw_numbers,
    matmul_node,
    matmul_sums,
    run,
)

from qrt.gemm.depthwise_table import DEPTHWISE
from qrt.gemm.table import TILES
from qrt.simd.features import detected_features

# features that rows of the tables ask for: the others choose nothing here
ASKED = {name for row in (*TILES, *DEPTHWISE) for name in row.features}


@pytest.mark.parametrize("name", sorted(ASKED & detected_features()))
def test_without(name: str) -> None:
    tally = Tally(f"all features but {name}", seed=110)
    rng = np.random.default_rng(tally.seed)
    rows = {tile.kernel_name("u8"): tile.features for tile in TILES}
    rows |= {spec.kernel_name: spec.features for spec in DEPTHWISE}
    for m, n, k in combinations((1, 7, 13), (1, 8, 33, 67), (1, 6, 29)):
        x = rng.integers(0, 256, (m, k), dtype=np.uint8)
        w = rng.integers(-128, 128, (k, n), dtype=np.int8)
        numbers = draw_numbers(rng, n, k, "u8", weight_zero_points=n == 8)
        want = numbers.finish(matmul_sums(x, w, numbers), axis=1)
        got, kernels = run(matmul_node(x.shape, w, numbers), x, f"-{name}", 1, tally.seed)
        tally.compare((m, n, k), got, want, kernels)
    for c, kernel in combinations((2, 37, 67), (2, 3, 5)):
        x = rng.integers(0, 256, (1, c, 6, 9), dtype=np.uint8)
        w = rng.integers(-128, 128, (c, 1, kernel, kernel), dtype=np.int8)
        numbers = draw_numbers(rng, c, kernel**2, "u8")
        node = conv_node(
            x.shape, w, numbers, group=c, strides=(1, 1), pads=(1, 1, 1, 1), dilations=(1, 1)
        )
        out = node.outputs[0].static_shape[2:]
        sums = conv_sums(x, w, numbers, (1, 1), (1, 1, 1, 1), (1, 1), c, out)
        got, kernels = run(node, x, f"-{name}", 1, tally.seed)
        tally.compare((c, kernel), got, numbers.finish(sums, axis=1), kernels)
    taken = {kernel for kernel in tally.kernels if kernel in rows}
    tally.expect(name, bool(taken), f"ran {tally.kernels}")
    for kernel in taken:
        tally.expect(kernel, name not in rows[kernel], f"{kernel} needs {name}")
    print(f"without {name}: {', '.join(sorted(taken))}")
    tally.finish()
