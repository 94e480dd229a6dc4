"""GPTQ: round one input after the other, those to come make up for the error.

Frantar et al. 2023, algorithm 1: with H = x^T x of the data and U the upper Cholesky factor of its
inverse, column i's error (w - q) / U[i, i] leaves w[j] by U[i, j] for every later j. Here w is
first moved to the weights that do best on quantized inputs, and in the end single codes change as
long as the layer's squared error falls (coordinate descent).
"""

from __future__ import annotations

import numpy as np

from qrt.ptq.product import Product
from qrt.quant.affine import Array

DAMPING = 0.3  # of the mean diagonal, added to it: less follows the noise of the inputs
LEAST = 1e-8  # of data that are all 0
ROUNDS = 8  # of coordinate descent, at most


def gptq(product: Product) -> tuple[Array, Array]:
    """Codes (groups, outputs, k) and bias of a product."""
    codes = product.nearest()
    for group in range(len(codes)):
        codes[group] = _of_group(product, group)
    return codes, product.mean_bias(codes)


def _of_group(product: Product, group: int) -> Array:
    x = product.seen.quantized[group].astype(np.float64)
    exact = product.seen.exact[group].astype(np.float64)
    if product.free:  # the bias takes care of the mean
        x, exact = x - x.mean(axis=0), exact - exact.mean(axis=0)
    hessian, cross = x.T @ x, exact.T @ x
    damping = np.eye(len(hessian)) * max(DAMPING * float(np.diagonal(hessian).mean()), LEAST)
    hessian, cross = hessian + damping, cross + damping
    wanted = product.w[group] @ cross  # codes are to give this times the hessian's inverse
    grid = _Grid(product.scale[group], product.zero[group], product.qmin, product.qmax)
    codes = _one_after_the_other(np.linalg.solve(hessian, wanted.T).T, grid, hessian)
    return _polished(codes, grid, hessian, wanted)


class _Grid:
    """The grid of each weight, (outputs, k)."""

    def __init__(self, scale: Array, zero: Array, qmin: int, qmax: int) -> None:
        self.scale, self.zero, self.qmin, self.qmax = scale, zero, qmin, qmax

    def codes(self, w: Array, column: int) -> Array:
        """The nearest codes of one column."""
        steps = np.rint(w / self.scale[:, column]) + self.zero[:, column]
        return np.asarray(np.clip(steps, self.qmin, self.qmax))

    def real(self, codes: Array, column: int) -> Array:
        """What they stand for."""
        return np.asarray((codes - self.zero[:, column]) * self.scale[:, column])


def _one_after_the_other(w: Array, grid: _Grid, hessian: Array) -> Array:
    inverse = np.linalg.cholesky(np.linalg.inv(hessian)).T  # upper
    w, codes = w.copy(), np.zeros(w.shape)
    for column in range(w.shape[1]):
        codes[:, column] = grid.codes(w[:, column], column)
        back = grid.real(codes[:, column], column)
        error = (w[:, column] - back) / inverse[column, column]
        w[:, column + 1 :] -= np.outer(error, inverse[column, column + 1 :])
    return codes


def _polished(codes: Array, grid: _Grid, hessian: Array, wanted: Array) -> Array:
    """Each column in turn at its best given the others: no step raises the squared error."""
    real = (codes - grid.zero) * grid.scale
    left = wanted - real @ hessian  # half the error's slope, downwards
    for _ in range(ROUNDS):
        changed = False
        for column in range(codes.shape[1]):
            best = real[:, column] + left[:, column] / hessian[column, column]
            found = grid.codes(best, column)
            moved = found != codes[:, column]
            if not moved.any():
                continue
            changed = True
            step = grid.real(found, column) - real[:, column]
            left[moved] -= np.outer(step[moved], hessian[column])
            real[moved, column] += step[moved]
            codes[moved, column] = found[moved]
        if not changed:
            break
    return codes
