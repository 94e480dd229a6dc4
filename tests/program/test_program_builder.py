"""Lowering to rows: encoding, barriers, live ranges, bindings, refusals."""

from __future__ import annotations

import numpy as np
import pytest

from qrt.errors import MemoryLimitError, ModelError, UnsupportedError
from qrt.ir import Graph, Node, Value
from qrt.jit.declare import HEADER
from qrt.ops.spec import OpSpec
from qrt.program import ConstantPool, Program, ProgramBuilder, build_program
from qrt.program.places import ArenaPlace
from qrt.program.program import BARRIER, NODE
from tests.machine.graphs import OPS, constant, node, rotating_chain, tensor
from tests.machine.kernels import add_kernel

NO_FEATURES: frozenset[str] = frozenset()


def built(graph: Graph, **options: object) -> Program:
    return build_program(graph, NO_FEATURES, ops=OPS, **options)  # type: ignore[arg-type]


def test_rows_encode_operands_and_numbers() -> None:
    x, out = tensor("x", (5,)), tensor("out", (5,))
    program = built(
        Graph([node("Add", [x, constant("c", np.ones(5, np.float32))], out)], [x], [out])
    )
    assert program.kernels == ("test_add",)
    assert program.rows.shape == (1, len(HEADER) + 4)
    fields = program.fields(0)
    assert fields["x"] >= 0 and fields["out"] >= 0 and fields["n"] == 5
    at = ~fields["y"]
    np.testing.assert_array_equal(program.constants.buffer[at : at + 20].view(np.float32), 1)
    assert [b.offset for b in (*program.inputs, *program.outputs)] == [fields["x"], fields["out"]]


def test_floats_are_stored_as_float32_bits() -> None:
    builder = ProgramBuilder(NO_FEATURES)
    place = builder.scratch(8)
    builder.emit(add_kernel, x=place, y=place.at(4), out=place, n=np.float32(-1.5))
    fields = builder._rows[0][2]
    assert fields["y"] == ArenaPlace(place.buffer, 4)
    from qrt.program.builder import _encoded

    assert np.int32(_encoded(fields["n"])).view(np.float32) == -1.5
    assert _encoded(2.5) == _encoded(np.float64(2.5)) == int(np.float32(2.5).view(np.int32))
    assert _encoded(np.int8(-3)) == -3 and _encoded(True) == 1


def test_emit_wants_every_field() -> None:
    builder = ProgramBuilder(NO_FEATURES)
    with pytest.raises(AssertionError, match="takes"):
        builder.emit(add_kernel, x=0, n=3)


def test_barriers_stand_where_rows_depend() -> None:
    x = tensor("x", (100,))
    a, b, c, d = (tensor(name, (100,)) for name in "abcd")
    nodes = [
        node("Add", [x, x], a),
        node("Add", [x, x], b),  # does not depend on a
        node("Add", [a, b], c),  # on both
        node("Add", [x, a], d),  # a was behind the barrier already
    ]
    program = built(Graph(nodes, [x], [a, b, c, d]))
    assert program.rows[:, BARRIER].tolist() == [0, 0, 1, 0]


def test_reuse_of_a_buffer_needs_a_barrier() -> None:
    program = built(rotating_chain(5, 100))
    assert program.rows[:, BARRIER].tolist() == [0, 1, 1, 1, 1]
    assert program.arena_nbytes == 2 * 448  # 400 bytes each, aligned: two buffers take turns


def test_an_alias_keeps_its_buffer_alive() -> None:
    x, a, b, c, out = (tensor(name, (64,)) for name in ("x", "a", "b", "c", "out"))
    nodes = [
        node("Add", [x, x], a),
        node("Alias", [a], b),
        node("Add", [x, x], c),
        node("Add", [b, c], out),
    ]
    program = built(Graph(nodes, [x], [out]))
    first, second, third = (program.fields(i) for i in range(3))
    assert third["x"] == first["out"] != second["out"]


def test_alias_needs_equal_bytes() -> None:
    x, wrong = tensor("x", (4,)), tensor("wrong", (5,))
    with pytest.raises(AssertionError, match="cannot be the bytes"):
        built(Graph([node("Alias", [x], wrong)], [x], [wrong]))


def test_outputs_that_are_inputs_or_constants() -> None:
    x, same = tensor("x", (3,)), tensor("same", (3,))
    c = constant("c", np.float32([1, 2]))
    program = built(Graph([node("Alias", [x], same)], [x], [same, x, c]))
    assert [b.offset for b in program.outputs[:2]] == [program.inputs[0].offset] * 2
    arena = np.zeros(program.arena_nbytes, np.uint8)
    np.testing.assert_array_equal(program.outputs[2].view(arena, program.constants.buffer), [1, 2])


def test_outputs_live_to_the_end() -> None:
    x = tensor("x", (64,))
    early, late = tensor("early", (64,)), tensor("late", (64,))
    nodes = [node("Add", [x, x], early), node("Add", [x, x], late)]
    program = built(Graph(nodes, [x], [early, late]))
    assert len({b.offset for b in program.outputs}) == 2


def test_constants_are_stored_in_their_layout() -> None:
    data = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    value = Value("c", data.dtype, data.shape, data, layout=(0, 2, 1))
    builder = ProgramBuilder(NO_FEATURES)
    place = builder.operand(value)
    assert builder.operand(value) is place
    at = -1 - place.encoded
    bytes_ = builder.pool.buffer[at : at + 96].view(np.float32)
    np.testing.assert_array_equal(bytes_, data.transpose(0, 2, 1).ravel())


def test_programs_share_the_pool() -> None:
    pool = ConstantPool()
    data = np.ones(1000, np.float32)

    def graph() -> Graph:
        x, out = tensor("x", (1000,)), tensor("out", (1000,))
        return Graph([node("Add", [x, constant("c", data)], out)], [x], [out])

    one, two = built(graph(), pool=pool), built(graph(), pool=pool)
    assert one.constants is two.constants and pool.nbytes == 4000


def test_an_unknown_operator_is_named_once() -> None:
    x, out = tensor("x", (3,)), tensor("out", (3,))
    with pytest.raises(UnsupportedError) as caught:
        built(Graph([Node("Frob", [x], [out], {}, "my", "s", 7)], [x], [out]))
    assert str(caught.value) == "Frob 's' (#7): operator my.Frob has no native kernel"


def test_errors_of_lower_are_led_by_the_node() -> None:
    def refuse(node: Node, program: object) -> None:
        raise ModelError("w must be constant")

    ops = {("test", "Bad"): OpSpec("Bad", "test", lambda n: [], None, refuse)}
    x, out = tensor("x", (3,)), tensor("out", (3,))
    with pytest.raises(ModelError, match=r"^Bad 'make_out' \(#2\): w must be constant$"):
        build_program(Graph([node("Bad", [x], out, 2)], [x], [out]), NO_FEATURES, ops=ops)


def test_max_bytes_refuses_before_anything_runs() -> None:
    graph = rotating_chain(3, 1 << 20)
    with pytest.raises(MemoryLimitError, match="max_bytes allows 1000000"):
        built(graph, max_bytes=1_000_000)
    assert built(rotating_chain(3, 10), max_bytes=1_000_000).nbytes < 1_000_000


def test_rows_know_their_node() -> None:
    program = built(rotating_chain(3, 8))
    assert program.rows[:, NODE].tolist() == [0, 1, 2]
    assert program.where(2) == "Rotate 'make_r2' (#2)"
    labels = [(label.name, kernels) for label, kernels in program.kernels_by_node()]
    assert labels == [(f"make_r{i}", ("test_rotate",)) for i in range(3)]


def test_scratch_lives_with_its_rows() -> None:
    builder = ProgramBuilder(NO_FEATURES, threads=2)
    assert builder.threads() == 2
    x = tensor("x", (64,))
    builder.bind_inputs([x])
    first, second = builder.scratch(256), builder.scratch(256)
    for place in (first, second):
        builder.emit(add_kernel, x=builder.operand(x), y=builder.operand(x), out=place, n=64)
    program = builder.build(Graph([], [x], []))
    assert program.fields(0)["out"] == program.fields(1)["out"]
