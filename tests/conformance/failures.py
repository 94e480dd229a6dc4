"""The conformance cases that fail, by reason."""

from __future__ import annotations

FAILURES: dict[str, tuple[str, ...]] = {
    "its random numbers are those of one NumPy state": (
        "test_bernoulli",
        "test_bernoulli_double",
        "test_bernoulli_double_expanded",
        "test_bernoulli_expanded",
        "test_bernoulli_seed",
        "test_bernoulli_seed_expanded",
    ),
    "FlexAttention is not run yet": (
        "test_flexattention_causal_mask",
        "test_flexattention_prob_mod",
        "test_flexattention_relative_positional",
        "test_flexattention_score_mod",
        "test_flexattention_soft_cap",
    ),
    "the case multiplies float64 by float32, which Mul does not take": (
        "test_flexattention_double_expanded_ver26",
    ),
    "the case takes length_resized as a fraction; it is a length in ONNX and onnxruntime": (
        "test_resize_downsample_scales_linear_align_corners",
    ),
    "Gradient is not computed: it needs the derivative of the graph around it": (
        "test_gradient_of_add",
        "test_gradient_of_add_and_mul",
    ),
}
