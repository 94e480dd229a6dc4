"""Packing at run time gives the bytes that packing before it gives, and stays where it says."""

from __future__ import annotations

from itertools import product as combinations

import numpy as np
import pytest
from kernel_harness import run_rows
from kernel_trace import TooLong, strays, touched, trace_kernel
from product_cases import ProductBench, Tally, tile_rows

from qrt.gemm.pack import column_positions, pack_columns, pack_weights
from qrt.gemm.pack_kernel import FIELDS, pack_kernel
from qrt.gemm.table import TileSpec, padded_columns
from qrt.ir import Value
from qrt.program.constants import aligned_bytes
from qrt.simd.features import active_features

ROWS = [pytest.param(*row, id=row[0].kernel_name(row[1])) for row in tile_rows()]
OPERANDS = FIELDS[:8]
ANYTHING = (-1, 0, 1, 3, 4, 8, 16, 17, 1000, 2**20, 2**31, 2**32, 2**40, 2**62, -(2**63))


def row_of(tile: TileSpec, k: int, n: int) -> dict[str, int]:
    """A row for w (k, n), operands left open."""
    return {
        **dict.fromkeys(OPERANDS, 0),
        "k": k, "n": n, "k_step": n, "n_step": 1, "padded": padded_columns(n, tile),
        "nr": tile.nr, "lanes": tile.lanes, "kr": tile.kr,
        "x_offset": tile.x_offset, "pairs": int(tile.pairs),
        "octets": int(tile.octets),
    }  # fmt: skip


@pytest.mark.parametrize("tile, epilogue", ROWS)
def test_same_bytes(tile: TileSpec, epilogue: str) -> None:
    """Ramps and extremes on 1, 2 and 3 threads: panels, and columns with the bias corrected."""
    tally = Tally(f"gemm_pack_s8 for {tile.kernel_name(epilogue)}", seed=901)
    rng = np.random.default_rng(tally.seed)
    ns = (1, 3, tile.nr - 1, tile.nr, tile.nr + 1, 2 * tile.nr + 17)
    sizes = combinations((0, 1, 3, 4, 5, 33), ns, (1, 2, 3))
    for (k, n, threads), transposed in combinations(sizes, (False, True)):
        w = np.arange(k * n).astype(np.uint8).view(np.int8).reshape(k, n)
        if (k + n) % 3 == 0:
            w = rng.choice(np.array([-128, 127], np.int8), (k, n))
        x_zero_point = int(rng.choice([0, 1, 128, 255]))
        bias = rng.integers(-(2**31), 2**31, n).astype(np.int32)
        multiplier, float_bias = (rng.standard_normal(n).astype(np.float32) for _ in range(2))
        x_scale = np.float32(rng.choice([1, 0, np.inf, rng.random() + 0.1]))
        w_zero_point = rng.integers(-128, 128, n).astype(np.int32)
        w_code = int(rng.choice([128, 0, 255, rng.integers(0, 256)]))

        bench = ProductBench(active_features(), threads)
        panels_nbytes = padded_columns(n, tile) * -(-k // tile.kr) * 4
        panels, columns = bench.scratch(panels_nbytes), bench.scratch(16 * padded_columns(n, tile))
        source = bench.operand(Value("w", w.dtype, w.shape))
        steps = {"k_step": 1, "n_step": k} if transposed else {}
        stored = np.ascontiguousarray(w.T if transposed else w).reshape(-1).view(np.uint8)
        fields = row_of(tile, k, n) | steps | {
            "w": source,
            "panels": panels,
            "columns": columns,
            "template": bench.constant(
                pack_columns(n, tile, epilogue, bias, multiplier, w_zero_point, float_bias)
            ),
            "order": bench.constant(column_positions(n, tile, epilogue)),
            "x_scale": bench.constant(np.array([x_scale])),
            "x_zero_point": bench.constant(np.array([x_zero_point], np.uint8)),
            "w_zero_point": bench.constant(np.array([w_code], np.uint8)),
        }
        bench.emit(pack_kernel, **fields)
        bench.check_extents()
        arena = aligned_bytes(bench.arena_nbytes)
        arena[:] = rng.integers(0, 256, arena.size, dtype=np.uint8)
        arena[source.offset : source.offset + w.size] = stored
        before = arena.copy()
        run_rows(bench, arena, np.frombuffer(bytes(bench.constants), np.uint8), threads)

        zeros = w_zero_point + w_code - 128
        real = w.astype(np.int64).sum(0) - k * zeros
        # a tile of pairs subtracts one less from k2 k3
        less = [tile.pairs and i % 4 >= 2 for i in range(k)]
        offset = tile.x_offset * w.sum(0, dtype=np.int64) - w[less].sum(0, dtype=np.int64)
        exact = bias - x_zero_point * real + offset
        corrected = exact.astype(np.uint64).astype(np.uint32).view(np.int32)
        wants = {
            panels.offset: pack_weights(np.ascontiguousarray(w.T)[:, None, :], tile, epilogue),
            columns.offset: pack_columns(
                n, tile, epilogue, corrected, multiplier * x_scale, zeros, float_bias
            ),
        }
        case = f"k {k} n {n}{' transposed' * transposed}, {threads} threads"
        for start, want in wants.items():
            tally.compare(case, arena[start : start + want.size], want, (pack_kernel.name,))
            before[start : start + want.size] = want
        tally.compare(f"{case}, around the operands", arena, before, (pack_kernel.name,))
    tally.finish()


@pytest.mark.parametrize("tile, epilogue", ROWS)
def test_extents(tile: TileSpec, epilogue: str) -> None:
    """Honest rows write every byte of panels, corrupt ones stay inside. No position is padding:
    the trace reads zeros, so every one holds column 0."""
    tally = Tally(f"gemm_pack_s8 for {tile.kernel_name(epilogue)}", seed=902)
    rng = np.random.default_rng(tally.seed)
    for i in range(40):
        row = row_of(tile, int(rng.integers(0, 9)), int(rng.integers(1, tile.nr + 9)))
        honest = i % 4 == 0
        if not honest:
            for name in rng.choice(FIELDS[8:], rng.integers(1, 3), replace=False):
                row[name] = int(rng.choice(np.array(ANYTHING, object)))
        try:
            extents = pack_kernel.extents(row)
        except ValueError:
            tally.expect(row, not honest, "refused")
            continue
        if any(e.nbytes > 2**24 for e in extents):
            continue
        written: set[int] = set()
        try:
            for thread in range(2):
                trace = trace_kernel(pack_kernel, row, thread, 2, limit=40_000)
                found = strays(trace, pack_kernel, extents)
                tally.expect(row, not found, f"{len(found)} strays, {found[:1]}")
                written |= set(touched(trace, pack_kernel, "panels", writes=True))
        except TooLong:
            owned = sum(e.nbytes for e in extents)
            tally.expect(row, owned > 5_000, f"more than 40000 steps for {owned} bytes")
            continue
        panels = next(e for e in extents if e.field == "panels").nbytes
        tally.expect(row, not honest or written == set(range(panels)), "panels are not whole")
    tally.finish()
