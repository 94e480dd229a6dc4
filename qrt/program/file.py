"""A program in one file: a JSON header and aligned sections, read through a memory map.

Layout: MAGIC (8), header nbytes (8), digest of header (16), header (JSON), then at multiples of
PAGE the rows (int64) and the constants (uint8, with their slack). The header holds the digest of
each section. Little-endian. No pickles: a file can only name kernels that this qrt knows, and
`verify` decides whether its rows may run.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import sys
from dataclasses import asdict
from typing import Any

import ml_dtypes
import numpy as np

from qrt.errors import ProgramError
from qrt.files import whole_file
from qrt.jit.declare import HEADER
from qrt.program.constants import ConstantPool
from qrt.program.host import HOSTS
from qrt.program.places import SLACK
from qrt.program.program import Binding, NodeLabel, Program
from qrt.program.verify import verify

Array = np.ndarray[Any, Any]

MAGIC = b"qrtprog1"
PAGE = 4096
_DIGEST = 16
_FIXED = len(MAGIC) + 8 + _DIGEST
_MAX_HEADER = 1 << 28  # bytes
_LITTLE = sys.byteorder == "little"


def save_program(program: Program, path: str | os.PathLike[str]) -> None:
    """Write `program` to `path`, beside it first, so that no reader sees half a file.

    Raises ProgramError for a program with host operators, which are Python objects.
    """
    if program.hosts:
        first = next(i for i in range(len(program.rows)) if program.kernel(i) in HOSTS)
        raise ProgramError(
            f"{program.where(first)}: a program with operators that Python runs cannot be"
            " saved, only one of native kernels"
        )
    assert _LITTLE, "program files are little-endian"
    rows = np.ascontiguousarray(program.rows, np.int64)
    constants = program.constants.buffer
    sections = [rows.reshape(-1).view(np.uint8), constants]
    fields = {
        "shape": list(rows.shape),
        "kernels": list(program.kernels),
        "arena_nbytes": program.arena_nbytes,
        "threads": program.threads,
        "inputs": [_binding_json(b) for b in program.inputs],
        "outputs": [_binding_json(b) for b in program.outputs],
        "nodes": [asdict(n) for n in program.nodes],
        "sections": [{"nbytes": s.size, "digest": _digest(s.data).hex()} for s in sections],
    }
    header = json.dumps(fields).encode()
    with whole_file(path) as f:
        f.write(MAGIC + len(header).to_bytes(8, "little") + _digest(header) + header)
        for section in sections:
            f.write(bytes(-f.tell() % PAGE))
            f.write(section.data)


def load_program(path: str | os.PathLike[str]) -> Program:
    """The program in `path`, verified; constants stay in the memory map.

    Raises ProgramError for anything that is not a whole program file of this version.
    """
    import qrt.ops  # noqa: F401 (declares the kernels)

    assert _LITTLE, "program files are little-endian"
    try:
        with open(path, "rb") as f:
            data = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
    except ValueError as error:
        raise ProgramError(f"{os.fspath(path)}: the file is empty") from error
    try:
        program = _decode(np.frombuffer(data, np.uint8))
    except ProgramError as error:
        raise ProgramError(f"{os.fspath(path)}: {error}") from error.__cause__
    except (
        KeyError,
        TypeError,
        ValueError,
        OverflowError,
        AttributeError,
        RecursionError,
    ) as error:
        raise ProgramError(f"{os.fspath(path)}: the header is malformed: {error}") from error
    verify(program)
    return program


def _decode(data: Array) -> Program:
    raw = data.data
    if bytes(raw[: len(MAGIC)]) != MAGIC or data.size < _FIXED:
        raise ProgramError("not a qrt program of this version")
    header_nbytes = int.from_bytes(raw[8:16], "little")
    if header_nbytes > min(_MAX_HEADER, data.size - _FIXED):
        raise ProgramError(f"the header has {header_nbytes} bytes, the file only {data.size}")
    header = bytes(raw[_FIXED : _FIXED + header_nbytes])
    if _digest(header) != bytes(raw[16:_FIXED]):
        raise ProgramError("the header's checksum does not match: the file is damaged")
    fields = json.loads(header)
    rows_bytes, constants = _sections(data, _FIXED + header_nbytes, fields["sections"])
    n, width = (_count(v) for v in fields["shape"])
    if width < len(HEADER) or n * width * 8 != rows_bytes.size:
        raise ProgramError(f"{n} rows of {width} slots do not fill {rows_bytes.size} bytes")
    return Program(
        rows=rows_bytes.view(np.int64).reshape(n, width),
        kernels=tuple(_text(name) for name in fields["kernels"]),
        constants=ConstantPool.over(constants),
        arena_nbytes=_count(fields["arena_nbytes"]),
        inputs=tuple(_binding_of(b) for b in fields["inputs"]),
        outputs=tuple(_binding_of(b) for b in fields["outputs"]),
        nodes=tuple(_label_of(label) for label in fields["nodes"]),
        threads=_count(fields["threads"]),
    )


def _sections(data: Array, start: int, listed: list[dict[str, Any]]) -> list[Array]:
    if len(listed) != 2:
        raise ProgramError(f"expected two sections, got {len(listed)}")
    sections = []
    for entry in listed:
        start += -start % PAGE
        nbytes = _count(entry["nbytes"])
        if start + nbytes > data.size:
            raise ProgramError(f"the file ends at byte {data.size}, a section at {start + nbytes}")
        section = data[start : start + nbytes]
        if _digest(section.data).hex() != entry["digest"]:
            raise ProgramError("a section's checksum does not match: the file is damaged")
        sections.append(section)
        start += nbytes
    if sections[1].size < SLACK:
        raise ProgramError(f"the constants have {sections[1].size} bytes, less than their slack")
    return sections


def _digest(data: Any) -> bytes:
    return hashlib.blake2b(data, digest_size=_DIGEST).digest()


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 62:
        raise ProgramError(f"expected a count, got {value!r}")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ProgramError(f"expected a string, got {value!r}")
    return value


def _binding_json(binding: Binding) -> dict[str, Any]:
    return {**asdict(binding), "dtype": binding.dtype.name}


def _binding_of(fields: dict[str, Any]) -> Binding:
    layout = fields["layout"]
    if isinstance(fields["offset"], bool) or not isinstance(fields["offset"], int):
        raise ProgramError(f"expected an offset, got {fields['offset']!r}")
    return Binding(
        name=_text(fields["name"]),
        dtype=_dtype_of(_text(fields["dtype"])),
        shape=tuple(_count(dim) for dim in fields["shape"]),
        offset=fields["offset"],
        layout=None if layout is None else tuple(_count(axis) for axis in layout),
    )


def _label_of(fields: dict[str, Any]) -> NodeLabel:
    index, origin = fields.pop("index"), fields.pop("origin")
    texts = {name: _text(value) for name, value in fields.items()}
    return NodeLabel(**texts, index=int(index), origin=tuple(_text(name) for name in origin))


def _dtype_of(name: str) -> np.dtype[Any]:
    extended = getattr(ml_dtypes, name, None)
    dtype = np.dtype(extended if isinstance(extended, type) else name)
    if dtype.hasobject or dtype.kind not in "biufcV" or dtype.itemsize == 0 or dtype.name != name:
        raise ProgramError(f"no tensor has the dtype {name!r}")
    return dtype
