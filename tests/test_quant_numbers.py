"""Numbers: affine maps, tables, weights and biases of products."""

from __future__ import annotations

import numpy as np
import pytest

from qrt.errors import QuantizationError
from qrt.ir import QParams
from qrt.quant import functions
from qrt.quant.affine import dequantize, flip, make_qparams, quantize, unsigned
from qrt.quant.products import largest_sum, quantize_bias, same_scale, signed_weights
from qrt.quant.tables import (
    CODES,
    clamp_table,
    compose,
    dequantize_table,
    is_identity,
    is_monotone,
    quantize_table,
)
from tests.contract.elementwise import UNARY as ORACLE
from tests.contract.node import Node as OracleNode

U8, S8 = np.dtype(np.uint8), np.dtype(np.int8)


def qparams(scale: float, zero_point: int, dtype: np.dtype[np.generic] = U8) -> QParams:
    return make_qparams(np.array(scale, np.float32), np.array(zero_point, dtype), dtype, None)


def test_int8_and_its_codes_mean_the_same() -> None:
    signed = qparams(0.3, -7, S8)
    q = np.arange(-128, 128).astype(np.int8)
    assert int(unsigned(signed).zero_point) == 121
    np.testing.assert_array_equal(flip(q), CODES)
    np.testing.assert_array_equal(flip(flip(q)), q)
    np.testing.assert_array_equal(dequantize(flip(q), unsigned(signed)), dequantize(q, signed))


def test_quantize_rounds_half_to_even_and_nan_to_qmin() -> None:
    x = np.array([0.5, 1.5, -0.5, 2.5, np.nan, np.inf, -np.inf, 1e30], np.float32)
    np.testing.assert_array_equal(quantize(x, qparams(1, 10)), [10, 12, 10, 12, 0, 255, 0, 255])


@pytest.mark.parametrize(
    ("scale", "zero_point", "message"),
    [
        (0.0, np.uint8(0), "positive"),
        (-1.0, np.uint8(0), "positive"),
        (np.nan, np.uint8(0), "finite"),
        (np.inf, np.uint8(0), "finite"),
        (1.0, np.int8(0), "zero point must be uint8"),
    ],
)
def test_parameters_without_meaning(scale: float, zero_point: np.generic, message: str) -> None:
    with pytest.raises(QuantizationError, match=message):
        make_qparams(np.array(scale, np.float32), np.asarray(zero_point), U8, None)


def test_requantization_to_the_same_is_the_identity() -> None:
    for scale in (0.1, 1e-3, 7.7, 1e-20):
        for zero_point in (0, 1, 128, 255):
            table = quantize_table(*[dequantize_table(p := qparams(scale, zero_point)), p])
            assert is_identity(table)


def test_tables_compose() -> None:
    double = quantize_table(2 * dequantize_table(qparams(1, 0)), qparams(1, 0))
    clamp = clamp_table(3, 200)
    np.testing.assert_array_equal(compose(double, clamp), clamp[double])
    assert compose(None, clamp) is clamp
    assert is_monotone(double) and is_monotone(None) and not is_monotone(CODES[::-1])


@pytest.mark.parametrize("op", sorted(set(ORACLE) & set(functions.UNARY)))
def test_functions_equal_the_oracle(op: str) -> None:
    x = dequantize_table(qparams(0.07, 101))
    node = OracleNode(op, "", 22, ("x",), ("y",), {})
    with np.errstate(all="ignore"):
        expected = ORACLE[op](x.astype(np.float64), node).astype(np.float32)
    np.testing.assert_array_equal(functions.unary(op, x, {}), expected)


def test_weights_become_int8() -> None:
    fits = np.array([[100, 130, 228], [1, 2, 3]], np.uint8)
    w, zero = signed_weights(fits, np.array([[101], [0]], np.uint8))
    np.testing.assert_array_equal(w, [[-1, 29, 127], [1, 2, 3]])
    assert zero.shape == () and zero == 0
    wide = np.array([[0, 255]], np.uint8)
    w, zero = signed_weights(wide, np.array(100, np.uint8))
    np.testing.assert_array_equal(w, [[-128, 127]])
    assert zero.shape == () and zero == -28


def test_bias_of_the_scale_of_the_sums() -> None:
    x, w = np.array(0.1, np.float32), np.array([0.2, 0.3], np.float32)
    assert same_scale(x * w, x, w)
    assert not same_scale(x * w * np.float32(1.01), x, w)
    steps = quantize_bias(np.array([1.0, -1e9], np.float32), x, w)
    np.testing.assert_array_equal(steps, [50, np.iinfo(np.int32).min])


def test_largest_sum_is_reached() -> None:
    rng = np.random.default_rng(0)
    w = rng.integers(-128, 128, (3, 5)).astype(np.int8)
    for zero_point in (0, 100, 255):
        x = qparams(1, zero_point)
        bound = largest_sum(w, np.zeros((), np.int32), x, 0)
        reach = max(zero_point, 255 - zero_point)
        np.testing.assert_array_equal(bound, np.abs(w.astype(int)).sum(1) * reach)
        columns = largest_sum(np.stack([w.T, w.T]), np.zeros((), np.int32), x, -1)
        np.testing.assert_array_equal(columns, [bound, bound])
