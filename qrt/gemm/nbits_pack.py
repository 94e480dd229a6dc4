"""Few-bit weights in the order that the tiles of `nbits_tile` read, and what goes with them."""

from __future__ import annotations

import numpy as np

from qrt.gemm.nbits_table import GROUP_BITS, NBitsTile, block_nbytes, panels_of
from qrt.quant.affine import Array
from qrt.quant.nbits import unpack_bits


def pack_nbits(packed: Array, scales: Array, tile: NBitsTile) -> Array:
    """Panels of `packed` (n, blocks, block * bits / 8) uint8 and `scales` (n, blocks) float32.

    [panel][block]: dwords [group][column], then scales [column]. Byte i of a dword holds weight
    4 * p + i of the group in its plane p. Returns uint8 (nbytes,).
    """
    n, blocks, blob = packed.shape
    bits, nr = tile.bits, tile.nr
    panels = panels_of(n, tile)
    block = blob * 8 // bits
    out = np.zeros((panels, blocks, block_nbytes(block, tile)), np.uint8)
    planes = 8 // bits
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    for i in range(panels):
        part = unpack_bits(packed[i * nr : (i + 1) * nr], bits)
        columns = part.shape[0]
        groups = part.reshape(columns, blocks, -1, planes, 4)
        dwords = np.zeros((blocks, block * bits // GROUP_BITS, nr, 4), np.uint8)
        dwords[:, :, :columns] = np.bitwise_or.reduce(groups << shifts, axis=3).transpose(
            1, 2, 0, 3
        )
        weights = out[i, :, : -4 * nr]
        weights[:] = dwords.reshape(blocks, -1)
        own = np.zeros((blocks, nr), np.float32)
        own[:, :columns] = scales[i * nr : (i + 1) * nr].T
        out[i, :, -4 * nr :] = own.view(np.uint8)
    return out.reshape(-1)


def pack_by_block(values: Array, tile: NBitsTile) -> Array:
    """Zero points (n, blocks) of any type as [panel][block][column], zeros where none is."""
    n, blocks = values.shape
    padded = np.zeros((panels_of(n, tile) * tile.nr, blocks), values.dtype)
    padded[:n] = values
    return np.ascontiguousarray(padded.reshape(-1, tile.nr, blocks).transpose(0, 2, 1)).reshape(-1)


def pack_bias(bias: Array, tile: NBitsTile) -> Array:
    """float32 (n,), padded to whole panels."""
    padded = np.zeros(panels_of(bias.size, tile) * tile.nr, np.float32)
    padded[: bias.size] = bias
    return padded
