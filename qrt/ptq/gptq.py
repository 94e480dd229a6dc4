"""GPTQ: round one input after the other, those to come make up for the error.

Frantar et al. 2023, algorithm 1: with H = x^T x of the data and U the upper Cholesky factor of its
inverse, column i's error (w - q) / U[i, i] leaves w[j] by U[i, j] for every later j.
"""

from __future__ import annotations

import numpy as np

from qrt.ir import QParams
from qrt.quant.affine import Array, spread_over

DAMPING = 0.01  # of the mean diagonal, added to it
LEAST = 1e-8  # of data that are all 0


def gptq(rows: Array, grid: QParams, moment: Array) -> Array:
    """Codes of `rows` (outputs, summed) on `grid`, each column's error spread over those after it.

    `moment` is x^T x (summed, summed) of the inputs.
    """
    n = rows.shape[1]
    hessian = moment.astype(np.float64).copy()
    diagonal = np.diagonal(hessian)
    hessian += np.eye(n) * max(DAMPING * float(diagonal.mean()), LEAST)
    inverse = np.linalg.cholesky(np.linalg.inv(hessian)).T  # upper
    w = rows.astype(np.float64).copy()
    scale = spread_over(grid.scale, rows.shape, grid).astype(np.float64)
    scale = np.broadcast_to(scale, rows.shape)
    zero = spread_over(grid.zero_point, rows.shape, grid).astype(np.float64)
    zero = np.broadcast_to(zero, rows.shape)
    q = np.zeros(rows.shape, grid.dtype)
    for column in range(n):
        codes = np.rint(w[:, column] / scale[:, column]) + zero[:, column]
        codes = np.clip(codes, grid.qmin, grid.qmax)
        q[:, column] = codes.astype(grid.dtype)
        back = (codes - zero[:, column]) * scale[:, column]
        error = (w[:, column] - back) / inverse[column, column]
        w[:, column + 1 :] -= np.outer(error, inverse[column, column + 1 :])
    return q
