"""What every recipe begins with: constants as initializers, BatchNormalization in the weights."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from qrt.errors import ModelError, QuantizationError
from qrt.loader.qoperators import QOPERATORS
from qrt.passes.spellings import QONNX_OPS
from qrt.ptq.draft import Draft, Model, attributes, label

QUANTIZED_OPS = {
    *(name for _, name in QOPERATORS), *(name for name in QONNX_OPS if name != "Trunc"),
    "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "DynamicQuantizeLSTM",
    "GatherBlockQuantized", "MatMulNBits",
}  # fmt: skip
WEIGHTED_OPS = ("Conv", "ConvTranspose", "Gemm", "GRU", "LSTM", "MatMul", "RNN")


def prepare(model: Model) -> Draft:
    """A draft of a float model, ready for scales. Raises ModelError for one that has some."""
    draft = Draft.of(model)
    for node in draft.nodes:
        if node.op_type in QUANTIZED_OPS:
            raise ModelError(
                f"the model is quantized already: it has {node.op_type} '{node.name}';"
                " quantize the float model it was made from (qat_import takes one whose scales were"
                " learned)"
            )
    constants_to_arrays(draft)
    drop_identities(draft)
    check_finite(draft)
    fold_batchnorm(draft)
    name_nodes(draft)
    return draft


def check_finite(draft: Draft) -> None:
    """Raise QuantizationError for weights or biases that are not finite, naming node and tensor."""
    for node in draft.nodes:
        for name in node.input[1:3] if node.op_type in WEIGHTED_OPS else ():
            array = draft.arrays.get(name)
            if array is not None and array.dtype.kind == "f" and not np.isfinite(array).all():
                bad = int((~np.isfinite(array)).sum())
                raise QuantizationError(
                    f"{label(node)}: {bad} of {array.size} values of '{name}' are not finite;"
                    " repair the model"
                )


def name_nodes(draft: Draft) -> None:
    """A name of its own for every node, so that rules and reports can say which they mean."""
    taken: set[str] = set()
    for node in draft.nodes:
        if not node.name or node.name in taken:
            node.name = draft.fresh(f"{node.output[0]}_{node.op_type}")
        taken.add(node.name)


def constants_to_arrays(draft: Draft) -> None:
    """Constant nodes become initializers, and what is stored in fewer bits behind a Cast, too."""
    kept = []
    for node in draft.nodes:
        value = next((a for a in node.attribute if a.name == "value"), None)
        if node.op_type == "Constant" and value is not None:
            draft.arrays[node.output[0]] = numpy_helper.to_array(value.t)
        elif (
            node.op_type == "Cast"
            and node.input[0] in draft.arrays
            and attributes(node)["to"] == onnx.TensorProto.FLOAT
            and not draft.outputs.intersection(node.output)
        ):
            draft.arrays[node.output[0]] = draft.arrays[node.input[0]].astype(np.float32)
        else:
            kept.append(node)
    draft.nodes = kept


def drop_identities(draft: Draft) -> None:
    """Identity, and Dropout as inference has it, of what no output or subgraph is."""
    renamed: dict[str, str] = {}
    kept = []
    fixed = draft.outputs | draft.captured()
    for node in draft.nodes:
        for i, name in enumerate(node.input):
            node.input[i] = renamed.get(name, name)
        plain = node.op_type == "Identity" or (node.op_type == "Dropout" and len(node.input) == 1)
        if plain and not fixed.intersection(node.output) and not any(node.output[1:]):
            renamed[node.output[0]] = node.input[0]
        else:
            kept.append(node)
    draft.nodes = kept


def fold_batchnorm(draft: Draft) -> None:
    """BatchNormalization(Conv(x, w, b)) = Conv(x, w * gain, (b - mean) * gain + beta).

    gain = gamma / sqrt(variance + epsilon), per output channel. On the data of the training what
    comes out has mean beta and deviation |gamma|, which the draft keeps in `normals`.
    """
    producers, consumers = draft.producers(), draft.consumers()
    fixed = draft.outputs | draft.captured()
    gone = []
    for node in draft.nodes:
        if node.op_type != "BatchNormalization" or any(node.output[1:]):
            continue
        conv = producers.get(node.input[0])
        if conv is None or conv.op_type != "Conv" or conv.output[0] in fixed:
            continue
        parts = [draft.arrays.get(name) for name in node.input[1:5]]
        w = draft.arrays.get(conv.input[1])
        bias = draft.arrays.get(conv.input[2]) if len(conv.input) > 2 else None
        if w is None or any(p is None for p in parts) or len(consumers[conv.output[0]]) > 1:
            continue
        if len(conv.input) > 2 and bias is None:
            continue
        gamma, beta, mean, variance = (p.astype(np.float64) for p in parts if p is not None)
        gain = gamma / np.sqrt(variance + attributes(node).get("epsilon", 1e-5))
        shift = beta - mean * gain if bias is None else (bias - mean) * gain + beta
        wide = w * gain.reshape(-1, *(1,) * (w.ndim - 1))
        conv.input[1] = draft.constant(f"{conv.input[1]}_folded", wide.astype(np.float32))
        folded = draft.constant(f"{conv.output[0]}_bias", shift.astype(np.float32))
        if bias is None:
            del conv.input[2:]
            conv.input.append(folded)
        else:
            conv.input[2] = folded
        conv.output[0] = node.output[0]
        deviation = np.abs(gain) * np.sqrt(variance)
        draft.normals[node.output[0]] = beta, deviation
        gone.append(node)
    draft.nodes = [node for node in draft.nodes if not any(node is other for other in gone)]


def copied(draft: Draft) -> Draft:
    """Another draft of the same model."""
    return Draft(draft.model(check=False))


__all__ = [
    "constants_to_arrays", "copied", "drop_identities", "fold_batchnorm", "name_nodes", "prepare",
]  # fmt: skip
