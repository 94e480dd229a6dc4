"""AdaRound: learn for each weight whether it is rounded up or down, by what its layer then gives.

Nagel et al. 2020, equations 21 to 25: codes are floor(w / scale) + h(v), h a sigmoid stretched to
[-0.1, 1.1] and clipped, and a penalty 1 - |2 h - 1|^beta, beta falling, drives each h to 0 or 1.
The layer reads what the quantized layers before it give and is to give what the float one does,
behind its clamp (asymmetric reconstruction, section 3.3); its bias is learned with it.
"""

from __future__ import annotations

import numpy as np

from qrt.ptq.adam import Adam
from qrt.ptq.product import Product
from qrt.quant.affine import Array

STEPS = 1000
BATCH = 1024  # rows of a step
LEARNING_RATE = 1e-2
BIAS_RATE = 5e-4  # of the target's standard deviation
STRETCH_LOW, STRETCH_HIGH = -0.1, 1.1  # gamma and zeta
PENALTY = 0.01
WARM_UP = 0.2  # of the steps, without penalty
BETA_FIRST, BETA_LAST = 20.0, 2.0
SEED = 7


def learn(product: Product) -> tuple[Array, Array]:
    """Codes (groups, outputs, k) and bias of a product, not worse than rounding to the nearest.

    Worse is the squared error behind the clamp, on all rows.
    """
    codes, bias = _descend(product)
    nearest = product.nearest()
    found = [(codes, bias), (codes, product.mean_bias(codes)),
             (nearest, product.mean_bias(nearest))]  # fmt: skip
    return min(found, key=lambda one: product.error(*one))


def _descend(product: Product) -> tuple[Array, Array]:
    scale, zero = product.scale.astype(np.float32), product.zero.astype(np.float32)
    floor = np.floor(product.w / product.scale)
    v = _inverse((product.w / product.scale - floor).astype(np.float32))
    floor = (floor + product.zero).astype(np.float32)
    x = product.seen.quantized
    wanted = product.target()
    power = float(wanted.var()) or 1.0
    bias = product.mean_bias(product.nearest()).astype(np.float32)
    adam = Adam([v, bias], [LEARNING_RATE, BIAS_RATE * power**0.5 if product.free else 0.0])
    rng, rows = np.random.default_rng(SEED), x.shape[1]
    for step in range(STEPS):
        drawn = rng.integers(0, rows, BATCH) if rows > BATCH else slice(None)
        part, goal = x[:, drawn], wanted[:, drawn]
        sigmoid = 1 / (1 + np.exp(-v))
        stretched = sigmoid * (STRETCH_HIGH - STRETCH_LOW) + STRETCH_LOW
        h = np.clip(stretched, 0, 1)
        codes = floor + h
        real = (np.clip(codes, product.qmin, product.qmax) - zero) * scale
        y = part @ real.transpose(0, 2, 1) + bias[:, None]
        free = (y > product.low) & (y < product.high)
        by_y = np.where(free, np.clip(y, product.low, product.high) - goal, 0)
        by_y *= 2 / (power * part.shape[1])
        # slope of h by v, 0 where clipped
        slope = (STRETCH_HIGH - STRETCH_LOW) * sigmoid * (1 - sigmoid)
        slope *= (stretched > 0) & (stretched < 1)
        on_grid = (codes > product.qmin) & (codes < product.qmax)
        by_v = (by_y.transpose(0, 2, 1) @ part) * scale * on_grid
        done = step / STEPS
        if done >= WARM_UP:
            left = 1 - (done - WARM_UP) / (1 - WARM_UP)
            beta = BETA_LAST + (BETA_FIRST - BETA_LAST) * left
            away = 2 * h - 1
            by_v -= PENALTY * 2 * beta * np.abs(away) ** (beta - 1) * np.sign(away)
        adam.step([by_v * slope, by_y.sum(axis=1)])
    up = 1 / (1 + np.exp(-v)) >= 0.5
    codes = np.clip(floor + up, product.qmin, product.qmax).astype(np.float64)
    return codes, bias.astype(np.float64)


def _inverse(fraction: Array) -> Array:
    """v with h(v) = fraction."""
    inside = (np.clip(fraction, 1e-4, 1 - 1e-4) - STRETCH_LOW) / (STRETCH_HIGH - STRETCH_LOW)
    return np.asarray(-np.log(1 / inside - 1), np.float32)
