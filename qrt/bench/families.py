"""The table of kernel families that can be timed: sizes, models, what their speed is held to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from qrt.bench import product_models, stream_models
from qrt.errors import InputError

Dims = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Family:
    """Operators that are timed alike.

    `variants` are builders of models by name, the first the usual one. `unit` is of the
    rate: GMAC/s, GFLOP/s (two per multiply-add) or GB/s. `limits` are what may bound it, of which
    the lowest counts: `dots`, the dot loop of the kernel's instructions on registers; `fma`, the
    same in float32; `read`, reading the weights; `copy`, copying as many bytes as the operands
    have, after reading the inputs `rereads` times by variant. `macs` are multiply-adds by dims.
    """

    name: str
    about: str
    dims: tuple[str, ...]
    variants: Mapping[str, Callable[..., Any]]
    unit: str
    limits: tuple[str, ...]
    macs: Callable[..., int] | None = None
    needs: Callable[..., str] | None = None  # of dims: what is wrong with them, or ""
    rereads: Mapping[str, int] = field(default_factory=dict)

    @property
    def of_images(self) -> bool:
        """True when operands have an order in memory to choose: channels last or not."""
        return self.dims[0] == "height"

    @property
    def sizes(self) -> str:
        """m x n x k"""
        return " x ".join(self.dims)

    def check(self, dims: Dims) -> None:
        """Raise InputError for sizes that this family does not take."""
        wanted = self.sizes
        text = "x".join(map(str, dims))
        if len(dims) != len(self.dims) or min(dims) < 1:
            raise InputError(f"shape {text}: a shape of {self.name} is {wanted}, each at least 1")
        wrong = self.needs(*dims) if self.needs is not None else ""
        if wrong:
            raise InputError(f"shape {text} of {self.name} ({wanted}): {wrong}")


def _one_row(m: int, n: int, k: int) -> str:
    return "" if m == 1 else f"m must be 1, got {m}; gemm takes more rows"


def _blocks(m: int, n: int, k: int, block: int) -> str:
    whole = block >= 16 and not block & block - 1
    return "" if whole else f"block must be a power of two, 16 or more, got {block}"


def _product(m: int, n: int, k: int) -> int:
    return m * n * k


def _conv(h: int, w: int, c: int, o: int, kernel: int, stride: int) -> int:
    return -(-h // stride) * -(-w // stride) * o * c * kernel**2


def _depthwise(h: int, w: int, c: int, kernel: int, stride: int) -> int:
    return _conv(h, w, 1, c, kernel, stride)


MNK = ("m", "n", "k")
CONV = ("height", "width", "channels", "outputs", "kernel", "stride")
WINDOW = ("height", "width", "channels", "kernel", "stride")
ROWS = ("rows", "columns")
IMAGE = ("height", "width", "channels")

FAMILIES: tuple[Family, ...] = (
    Family(
        "gemm",
        "u8 x s8 products",
        MNK,
        {
            "requantized": product_models.qlinear_matmul,
            "to_float": product_models.matmul_to_float,
            "asymmetric": product_models.qlinear_matmul_asymmetric,
            "two_inputs": product_models.qlinear_matmul_two_inputs,
            "words": product_models.matmul_words,
            "dynamic": product_models.matmul_dynamic,
        },
        "GMAC/s",
        ("dots",),
        _product,
    ),
    Family(
        "gemv",
        "u8 x s8 products of one row",
        MNK,
        {"requantized": product_models.qlinear_matmul},
        "GMAC/s",
        ("dots", "read"),
        _product,
        _one_row,
    ),
    Family(
        "conv",
        "u8 x s8 convolutions",
        CONV,
        {"requantized": product_models.qlinear_conv},
        "GMAC/s",
        ("dots",),
        _conv,
    ),
    Family(
        "depthwise",
        "u8 x s8 depthwise convolutions",
        WINDOW,
        {"requantized": product_models.qlinear_depthwise},
        "GMAC/s",
        ("dots",),
        _depthwise,
    ),
    Family(
        "nbits",
        "float32 x weights of few bits in blocks",
        (*MNK, "block"),
        {
            "s8_4b": product_models.nbits_s8_4b,
            "s8_2b": product_models.nbits_s8_2b,
            "s8_8b": product_models.nbits_s8_8b,
            "s8_4b_asymmetric": product_models.nbits_s8_4b_asymmetric,
            "f32_4b": product_models.nbits_f32_4b,
        },
        "GMAC/s",
        ("dots", "read"),
        lambda m, n, k, block: m * n * k,
        _blocks,
    ),
    Family(
        "pool",
        "pooling",
        WINDOW,
        {
            "max": stream_models.max_pool,
            "average": stream_models.average_pool,
            "max_f32": stream_models.max_pool_f32,
            "average_f32": stream_models.average_pool_f32,
        },
        "GB/s",
        ("copy",),
    ),
    Family(
        "elementwise",
        "u8 element by element",
        ROWS,
        {"add": stream_models.add, "mul": stream_models.mul},
        "GB/s",
        ("copy",),
    ),
    Family(
        "lookup",
        "tables of 256 entries",
        ROWS,
        {"sigmoid": stream_models.sigmoid, "to_float": stream_models.sigmoid_to_float},
        "GB/s",
        ("copy",),
    ),
    Family(
        "quantize",
        "float32 to u8",
        ROWS,
        {
            "tensor": stream_models.quantize,
            "channels": stream_models.quantize_channels,
            "columns": stream_models.quantize_columns,
            "columns_apart": stream_models.quantize_columns_apart,
            "dynamic": stream_models.dynamic_quantize,
        },
        "GB/s",
        ("copy",),
        rereads={"dynamic": 1},
    ),
    Family(
        "dequantize",
        "u8 to float32",
        ROWS,
        {"tensor": stream_models.dequantize, "channels": stream_models.dequantize_channels},
        "GB/s",
        ("copy",),
    ),
    Family(
        "requantize",
        "integers of one scale to u8 of another",
        ROWS,
        {
            "u8": stream_models.requantize,
            "s32": stream_models.requantize_s32,
            "s32_fine": stream_models.requantize_s32_fine,
            "s32_columns": stream_models.requantize_s32_columns,
        },
        "GB/s",
        ("copy",),
    ),
    Family(
        "softmax",
        "softmax of rows",
        ROWS,
        {
            "u8": stream_models.softmax,
            "f32": stream_models.softmax_f32,
            "masked": stream_models.masked_softmax,
        },
        "GB/s",
        ("copy",),
    ),
    Family(
        "norm",
        "normalization in float32",
        ROWS,
        {"layer": stream_models.layer_norm, "batch": stream_models.batch_norm},
        "GB/s",
        ("copy",),
    ),
    Family(
        "gemm_f32",
        "float32 products",
        MNK,
        {
            "weights": product_models.matmul_f32,
            "words": product_models.matmul_f32_words,
            "two_inputs": product_models.matmul_f32_two_inputs,
            "added": product_models.gemm_f32_added,
        },
        "GFLOP/s",
        ("fma", "read"),
        _product,
    ),
    Family(
        "conv_f32",
        "float32 convolutions",
        CONV,
        {"f32": product_models.conv_f32},
        "GFLOP/s",
        ("fma",),
        _conv,
    ),
    Family(
        "depthwise_f32",
        "float32 depthwise convolutions",
        WINDOW,
        {"f32": product_models.depthwise_f32},
        "GFLOP/s",
        ("fma",),
        _depthwise,
    ),
    Family(
        "lstm_f32",
        "float32 LSTM over one sequence",
        ("steps", "inputs", "hidden"),
        {"f32": product_models.lstm_f32},
        "GFLOP/s",
        ("fma",),
        lambda steps, inputs, hidden: steps * 4 * hidden * (inputs + hidden),
    ),
    Family(
        "elementwise_f32",
        "float32 element by element",
        ROWS,
        {
            "sigmoid": stream_models.unary_f32,
            "add": stream_models.add_f32,
            "chain": stream_models.chain_f32,
            "less": stream_models.less_f32,
            "where": stream_models.where_f32,
            "mean": stream_models.reduce_f32,
            "cast": stream_models.cast,
        },
        "GB/s",
        ("copy",),
    ),
    Family(
        "movement",
        "elements moved",
        ROWS,
        {
            "transpose": stream_models.transpose,
            "slice": stream_models.slice_rows,
            "slice_steps": stream_models.slice_steps,
            "gather": stream_models.gather,
        },
        "GB/s",
        ("copy",),
    ),
    Family(
        "resize",
        "images padded and resized",
        IMAGE,
        {
            "pad": stream_models.pad_image,
            "nearest": stream_models.resize_nearest,
            "linear": stream_models.resize_linear,
        },
        "GB/s",
        ("copy",),
    ),
)

BY_NAME: dict[str, Family] = {family.name: family for family in FAMILIES}


def find_family(name: str) -> Family:
    """The family called `name`; InputError lists the known."""
    if name not in BY_NAME:
        raise InputError(f"no family is called {name!r}; the families are {', '.join(BY_NAME)}")
    return BY_NAME[name]
