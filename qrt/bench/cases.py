"""Shapes of real networks: what kernel benches walk.

Sizes are those of the networks' papers: 224 x 224 images (ResNet-50, MobileNetV2,
MobileNetV3-Small), 320 x 320 (YOLO), 49 x 10 spectrograms (DS-CNN), 128 tokens (BERT-base),
512 (GPT-2), one and more (Llama 7B).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qrt.bench.draft import Draft
from qrt.bench.families import BY_NAME, FAMILIES, Family, find_family
from qrt.errors import InputError

if TYPE_CHECKING:
    import onnx

Dims = tuple[int, ...]


@dataclass(frozen=True)
class Case:
    """A family's operator at one size; `layer` says whose size it is."""

    family: Family
    layer: str
    dims: Dims
    variant: str

    @property
    def size(self) -> str:
        """128x768x768"""
        return "x".join(map(str, self.dims))

    @property
    def name(self) -> str:
        """bert_qkv_128x768x768"""
        return f"{self.layer}_{self.size}"

    @property
    def label(self) -> str:
        """The family, and which of its variants where it is not the usual one."""
        usual = self.variant == next(iter(self.family.variants))
        return self.family.name if usual else f"{self.family.name} {self.variant}"

    @property
    def macs(self) -> int:
        """Multiply-adds; 0 for operators that are judged by bytes."""
        return self.family.macs(*self.dims) if self.family.macs is not None else 0

    def model(self, *, channels_last: bool = True) -> onnx.ModelProto:
        """The case as an onnx.ModelProto; images lie in memory as asked."""
        build = self.family.variants[self.variant]
        model: onnx.ModelProto = build(Draft(channels_last=channels_last), *self.dims)
        return model


# family -> (layer, dims, variant of the family: default the first)
SHAPES: dict[str, tuple[tuple[Any, ...], ...]] = {
    "gemm": (
        ("bert_qkv", (128, 768, 768)),
        ("bert_ffn_up", (128, 3072, 768)),
        ("bert_ffn_down", (128, 768, 3072)),
        ("gpt2_mlp", (512, 3072, 768)),
        ("bert_batch8", (1024, 768, 768)),
        ("square", (384, 384, 384)),
        ("square", (1024, 1024, 1024)),
        ("bert_classifier", (128, 2, 768)),
        ("ncf_tiny_k", (512, 256, 8)),
        ("bert_scores", (128, 128, 64), "two_inputs"),
        ("bert_dynamic", (128, 768, 768), "to_float"),
        ("bert_head", (128, 64, 768), "asymmetric"),
        ("bert_head", (128, 64, 768), "words"),
        ("bert_head", (128, 64, 768), "dynamic"),
    ),
    "gemv": (
        ("keyword_fc", (1, 12, 64)),
        ("mobilenet_v3_fc", (1, 1000, 1024)),
        ("mobilenet_v2_fc", (1, 1000, 1280)),
        ("resnet50_fc", (1, 1000, 2048)),
        ("bert_token", (1, 768, 768)),
        ("bert_token_ffn", (1, 3072, 768)),
        ("llama_qkv", (1, 4096, 4096)),
        ("llama_mlp", (1, 11008, 4096)),
    ),
    "conv": (
        ("resnet50_stem", (224, 224, 3, 64, 7, 2)),
        ("resnet50_conv1x1_56", (56, 56, 256, 64, 1, 1)),
        ("resnet50_conv3x3_56", (56, 56, 64, 64, 3, 1)),
        ("resnet50_expand_56", (56, 56, 64, 256, 1, 1)),
        ("resnet50_conv3x3_56_s2", (56, 56, 128, 128, 3, 2)),
        ("resnet50_conv3x3_28", (28, 28, 128, 128, 3, 1)),
        ("resnet50_conv3x3_14", (14, 14, 256, 256, 3, 1)),
        ("resnet50_conv1x1_14", (14, 14, 1024, 256, 1, 1)),
        ("resnet50_conv3x3_7", (7, 7, 512, 512, 3, 1)),
        ("resnet50_expand_7", (7, 7, 512, 2048, 1, 1)),
        ("resnet50_shortcut", (14, 14, 1024, 2048, 1, 2)),
        ("mobilenet_v2_stem", (224, 224, 3, 32, 3, 2)),
        ("mobilenet_v2_expand_112", (112, 112, 16, 96, 1, 1)),
        ("mobilenet_v2_project_56", (56, 56, 144, 24, 1, 1)),
        ("mobilenet_v2_expand_28", (28, 28, 32, 192, 1, 1)),
        ("mobilenet_v2_project_14", (14, 14, 576, 96, 1, 1)),
        ("mobilenet_v2_expand_7", (7, 7, 160, 960, 1, 1)),
        ("mobilenet_v2_last", (7, 7, 320, 1280, 1, 1)),
        ("mobilenet_v3_squeeze", (1, 1, 240, 64, 1, 1)),
        ("yolo_stem", (320, 320, 3, 16, 3, 2)),
        ("yolo_c2f_40", (40, 40, 64, 64, 3, 1)),
        ("yolo_head_10", (10, 10, 128, 80, 3, 1)),
        ("ds_cnn_stem", (49, 10, 1, 64, 5, 2)),
        ("ds_cnn_pointwise", (25, 5, 64, 64, 1, 1)),
    ),
    "depthwise": (
        ("mobilenet_v2_dw_112", (112, 112, 32, 3, 1)),
        ("mobilenet_v2_dw_112_s2", (112, 112, 96, 3, 2)),
        ("mobilenet_v2_dw_56", (56, 56, 144, 3, 1)),
        ("mobilenet_v2_dw_28", (28, 28, 192, 3, 1)),
        ("mobilenet_v2_dw_14", (14, 14, 576, 3, 1)),
        ("mobilenet_v2_dw_14_s2", (14, 14, 576, 3, 2)),
        ("mobilenet_v2_dw_7", (7, 7, 960, 3, 1)),
        ("mobilenet_v3_dw5x5_14", (14, 14, 240, 5, 1)),
        ("mobilenet_v3_dw5x5_28_s2", (28, 28, 96, 5, 2)),
        ("ds_cnn_dw", (25, 5, 64, 3, 1)),
    ),
    "nbits": (
        ("bert_token", (1, 768, 768, 32)),
        ("bert_qkv", (16, 768, 768, 32), "f32_4b"),
        ("llama_qkv", (1, 4096, 4096, 32)),
        ("llama_qkv_b128", (1, 4096, 4096, 128)),
        ("llama_mlp", (1, 11008, 4096, 32)),
        ("llama_prompt16", (16, 4096, 4096, 32)),
        ("llama_prompt64", (64, 4096, 4096, 32)),
        ("llama_qkv", (1, 4096, 4096, 32), "s8_2b"),
        ("llama_qkv", (1, 4096, 4096, 32), "s8_8b"),
        ("llama_qkv", (1, 4096, 4096, 32), "s8_4b_asymmetric"),
        ("llama_qkv", (1, 4096, 4096, 32), "f32_4b"),
        ("llama_prompt16", (16, 4096, 4096, 32), "f32_4b"),
        ("llama_prompt64", (64, 4096, 4096, 32), "f32_4b"),
    ),
    "pool": (
        ("resnet50_pool", (112, 112, 64, 3, 2)),
        ("resnet50_pool", (112, 112, 64, 3, 2), "max_f32"),
        ("resnet50_head", (7, 7, 2048, 7, 1), "average"),
        ("resnet50_head", (7, 7, 2048, 7, 1), "average_f32"),
        ("inception_pool", (28, 28, 192, 3, 1), "average"),
        ("inception_pool", (28, 28, 192, 3, 1), "average_f32"),
    ),
    "elementwise": (
        ("resnet50_add_56", (3136, 256), "add"),
        ("mobilenet_v2_add_14", (196, 96), "add"),
        ("yolo_mul_80", (6400, 32), "mul"),
        ("llama_prompt", (1024, 4096), "add"),
    ),
    "lookup": (
        ("mobilenet_v3_swish_28", (784, 96)),
        ("bert_gelu", (128, 3072)),
        ("llama_prompt", (1024, 4096)),
        ("bert_gelu", (128, 3072), "to_float"),
    ),
    "quantize": (
        ("resnet50_input", (672, 224)),
        ("bert_ffn", (128, 3072)),
        ("llama_prompt", (512, 4096)),
        ("llama_prompt", (2048, 4096)),
        ("bert_ffn", (128, 3072), "channels"),
        ("resnet50_image", (3136, 256), "columns"),
        ("resnet50_image", (3136, 256), "columns_apart"),
        ("bert_ffn", (128, 3072), "dynamic"),
        ("llama_prompt", (512, 4096), "dynamic"),
    ),
    "dequantize": (
        ("resnet50_head", (49, 2048)),
        ("bert_ffn", (128, 3072)),
        ("llama_prompt", (512, 4096)),
        ("llama_prompt", (2048, 4096)),
        ("bert_ffn", (128, 3072), "channels"),
    ),
    "requantize": (
        ("bert_ffn", (128, 3072), "u8"),
        ("llama_prompt", (1024, 4096), "u8"),
        ("bert_ffn", (128, 3072), "s32"),
        ("llama_prompt", (512, 4096), "s32"),
        ("bert_ffn", (128, 3072), "s32_fine"),
        ("resnet50_image", (3136, 256), "s32_columns"),
    ),
    "softmax": (
        ("bert_attention", (1536, 128), "u8"),
        ("resnet50_classes", (1, 1000), "u8"),
        ("bert_attention", (1536, 128), "f32"),
        ("bert_attention", (1536, 128), "masked"),
    ),
    "norm": (
        ("bert_layer_norm", (128, 768), "layer"),
        ("gpt2_layer_norm", (1024, 768), "layer"),
        ("resnet50_batch_norm", (784, 512), "batch"),
    ),
    "gemm_f32": (
        ("bert_qkv", (128, 768, 768)),
        ("bert_ffn_up", (128, 3072, 768)),
        ("resnet50_fc", (1, 1000, 2048)),
        ("bert_scores", (128, 128, 64), "two_inputs"),
        ("lstm_gates", (16, 512, 128), "added"),
        ("lstm_gates", (16, 512, 128), "words"),
        ("bert_qkv", (128, 768, 768), "words"),
    ),
    "conv_f32": (
        ("resnet50_stem", (224, 224, 3, 64, 7, 2)),
        ("resnet50_conv3x3_56", (56, 56, 64, 64, 3, 1)),
        ("resnet50_conv1x1_14", (14, 14, 1024, 256, 1, 1)),
        ("mobilenet_v2_expand_28", (28, 28, 32, 192, 1, 1)),
    ),
    "depthwise_f32": (
        ("mobilenet_v2_dw_112", (112, 112, 32, 3, 1)),
        ("mobilenet_v2_dw_14", (14, 14, 576, 3, 1)),
        ("mobilenet_v2_dw_14_s2", (14, 14, 576, 3, 2)),
    ),
    "lstm_f32": (
        ("silero_vad", (1, 128, 128)),
        ("speech", (64, 256, 256)),
    ),
    "elementwise_f32": (
        ("bert_ffn", (128, 3072), "sigmoid"),
        ("bert_residual", (128, 768), "add"),
        ("bert_gelu", (128, 3072), "chain"),
        ("bert_mask", (128, 768), "less"),
        ("bert_mask", (128, 768), "where"),
        ("bert_pooler", (128, 768), "mean"),
        ("bert_sums", (128, 768), "cast"),
    ),
    "movement": (
        ("bert_keys", (768, 128), "transpose"),
        ("bert_keys", (768, 128), "slice"),
        ("rotary", (128, 4096), "slice_steps"),
        ("bert_embedding", (128, 768), "gather"),
    ),
    "resize": (
        ("mobilenet_pad", (112, 112, 96), "pad"),
        ("yolo_upsample", (20, 20, 128), "nearest"),
        ("segmentation", (65, 65, 21), "linear"),
    ),
}


def all_cases() -> list[Case]:
    """Every shape of the table, in the order of the families."""
    return [
        Case(family, layer, dims, *(rest or (next(iter(family.variants)),)))
        for family in FAMILIES
        for layer, dims, *rest in SHAPES[family.name]
    ]


def choose_cases(families: Sequence[str] = (), shapes: Sequence[str] = ()) -> list[Case]:
    """The cases of `families` (default all) that one of `shapes` names (default all).

    A shape is a part of a name, or sizes (128x768x768) in the family's order; sizes that are not in
    the table need exactly one family, and give one case per variant of it. Raises InputError for
    an unknown family, and for a shape that nothing has.
    """
    known = {name: find_family(name) for name in families or BY_NAME}
    cases = [case for case in all_cases() if case.family.name in known]
    if not shapes:
        return cases
    chosen: dict[Case, None] = {}
    for text in shapes:
        found = [case for case in cases if text == case.size] or [
            case for case in cases if text in case.name
        ]
        chosen |= dict.fromkeys(found or _own_sizes(text, list(known.values()), cases))
    return sorted(chosen, key=lambda case: list(BY_NAME).index(case.family.name))


def _own_sizes(text: str, families: Sequence[Family], cases: Iterable[Case]) -> list[Case]:
    """Cases of a user's own sizes."""
    if re.fullmatch(r"\d+(x\d+)*", text):
        if len(families) != 1:
            raise InputError(f"shape {text}: sizes need --family, one of {', '.join(BY_NAME)}")
        dims = tuple(map(int, text.split("x")))
        families[0].check(dims)
        return [Case(families[0], "shape", dims, variant) for variant in families[0].variants]
    names = ", ".join(dict.fromkeys(case.layer for case in cases))
    raise InputError(
        f"no shape is called {text!r}; the shapes are {names}, or sizes as 128x768x768"
    )


def listing(cases: Sequence[Case]) -> str:
    """Families, what their sizes mean, and their shapes."""
    lines = []
    width = max(len(case.name) for case in cases)
    for family in FAMILIES:
        own = [case for case in cases if case.family is family]
        if own:
            limits = " or ".join(family.limits)
            lines.append(
                f"{family.name}: {family.about}; {family.sizes}; {family.unit} of {limits}"
            )
            lines += [f"    {case.name:{width}}  {case.variant}" for case in own]
    return "\n".join(lines)


def list_facts(cases: Sequence[Case]) -> list[dict[str, Any]]:
    """The same for JSON."""
    return [
        {
            "family": case.family.name,
            "variant": case.variant,
            "shape": case.name,
            "dims": dict(zip(case.family.dims, case.dims, strict=True)),
            "unit": case.family.unit,
            "limits": list(case.family.limits),
        }
        for case in cases
    ]
