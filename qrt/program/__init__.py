"""A Program: rows over one arena and one constant buffer, built from a machine graph.

`build_program` lowers nodes to rows, plans memory and verifies; `save_program` and `load_program`
keep it in one file; `disassemble` shows it.
"""

from qrt.program.builder import ProgramBuilder, build_program
from qrt.program.constants import ConstantPool
from qrt.program.disassemble import disassemble
from qrt.program.file import load_program, save_program
from qrt.program.program import Binding, NodeLabel, Program
from qrt.program.verify import verify

__all__ = [
    "Binding",
    "ConstantPool",
    "NodeLabel",
    "Program",
    "ProgramBuilder",
    "build_program",
    "disassemble",
    "load_program",
    "save_program",
    "verify",
]
