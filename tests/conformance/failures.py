"""The conformance cases that fail, by reason; whoever makes one pass takes it from here."""

from __future__ import annotations

# their expected output is what NumPy drew when the case was made: shape and type are right
RANDOM: tuple[str, ...] = (
    "test_bernoulli",
    "test_bernoulli_double",
    "test_bernoulli_double_expanded",
    "test_bernoulli_expanded",
    "test_bernoulli_seed",
    "test_bernoulli_seed_expanded",
)
FAILURES: dict[str, tuple[str, ...]] = {
    "random numbers": RANDOM,
    "the case multiplies float64 by float32, which Mul does not take": (
        "test_flexattention_double_expanded_ver26",
    ),
    "the case takes length_resized as a fraction; it is a length in ONNX and onnxruntime": (
        "test_resize_downsample_scales_linear_align_corners",
    ),
    "Gradient needs the derivative of the graph around it, which qrt does not make": (
        "test_gradient_of_add",
        "test_gradient_of_add_and_mul",
    ),
}
