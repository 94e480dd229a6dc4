"""ONNX's backend interface, so that whatever drives backends can drive qrt.

ONNX's own conformance suite:

    from onnx.backend.test import BackendTest
    import qrt.backend

    globals().update(BackendTest(qrt.backend.Backend, __name__).test_cases)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, helper
from onnx.backend.base import Backend as OnnxBackend
from onnx.backend.base import BackendRep as OnnxBackendRep
from onnx.backend.base import Device, DeviceType, namedtupledict

from qrt.api import Session, load
from qrt.errors import InputError, UnsupportedError


class BackendRep(OnnxBackendRep):
    """A prepared model; `session` is qrt's own handle of it."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        """The outputs in the model's order, as a named tuple.

        `inputs`: arrays in the order of the model's inputs (one alone may come without a list), or
        a mapping by name. Raises InputError for what does not fit.
        """
        names = [argument.name for argument in self.session.get_inputs()]
        if isinstance(inputs, Mapping):
            feeds = dict(inputs)
        else:
            if isinstance(inputs, np.ndarray) or not isinstance(inputs, Sequence):
                inputs = [inputs]
            if len(inputs) != len(names):
                raise InputError(f"the model has {len(names)} inputs, got {len(inputs)}")
            feeds = dict(zip(names, inputs, strict=True))
        results = self.session.run(None, feeds)
        outputs = [argument.name for argument in self.session.get_outputs()]
        made: tuple[Any, ...] = namedtupledict("Outputs", outputs)(*results)
        return made


class Backend(OnnxBackend):
    """Class methods only, as ONNX has it. Options are those of `qrt.load`."""

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """The CPU alone."""
        return bool(Device(device).type == DeviceType.CPU)

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> BackendRep:
        """A session for `model`; raises what `qrt.load` raises."""
        _check_device(device)
        return BackendRep(load(model, **kwargs))

    @classmethod
    def run_model(
        cls, model: onnx.ModelProto, inputs: Any, device: str = "CPU", **kwargs: Any
    ) -> tuple[Any, ...]:
        """The outputs of `model` for `inputs`."""
        return cls.prepare(model, device, **kwargs).run(inputs)

    @classmethod
    def run_node(
        cls,
        node: NodeProto,
        inputs: Any,
        device: str = "CPU",
        outputs_info: Sequence[tuple[Any, tuple[int, ...]]] | None = None,
        **kwargs: Any,
    ) -> tuple[Any, ...]:
        """The outputs of one node for `inputs`, a list of the inputs that it names or a mapping.

        `opset_version` (keyword) says which version of the operator is meant, default the latest;
        `outputs_info`: (dtype, shape) of each output, where the caller knows.
        """
        version = int(kwargs.pop("opset_version", onnx.defs.onnx_opset_version()))
        named = list(dict.fromkeys(name for name in node.input if name))
        if not isinstance(inputs, Mapping):
            inputs = dict(zip([name for name in node.input if name], inputs, strict=True))
        feeds = {name: np.asarray(inputs[name]) for name in named}
        infos = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
            for name, a in feeds.items()
        ]
        graph = helper.make_graph([node], "node", infos, _outputs(node, outputs_info))
        opsets = [helper.make_opsetid("", version)]
        if node.domain not in ("", "ai.onnx"):
            opsets.append(helper.make_opsetid(node.domain, onnx.defs.onnx_ml_opset_version()))
        model = helper.make_model(graph, opset_imports=opsets)
        return cls.prepare(model, device, **kwargs).run(feeds)


prepare = Backend.prepare
run_model = Backend.run_model
run_node = Backend.run_node
supports_device = Backend.supports_device
is_compatible = Backend.is_compatible


def _check_device(device: str) -> None:
    if not Backend.supports_device(device):
        raise UnsupportedError(f"qrt runs on the CPU, not on {device!r}")


def _outputs(
    node: NodeProto, infos: Sequence[tuple[Any, tuple[int, ...]]] | None
) -> list[onnx.ValueInfoProto]:
    names = [name for name in node.output if name]
    if infos is None:
        return [onnx.ValueInfoProto(name=name) for name in names]
    return [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)
        for name, (dtype, shape) in zip(names, infos, strict=True)
    ]
