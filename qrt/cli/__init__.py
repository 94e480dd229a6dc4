"""The command line: `qrt run`, `bench`, `bench kernels`, `explain`, `inspect`, `quantize`, `size`,
`compare`, `engines`, `supported`, `demo`.

Exit codes: 0 fine; 1 the demo scored too low; 2 bad input (one line on stderr says which); 3 a
mistake of qrt's own; 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

import qrt
from qrt import knobs
from qrt.cli import (
    bench,
    bench_kernels,
    compare,
    demo,
    engines,
    explain,
    inspect,
    quantize,
    run,
    size,
    supported,
)
from qrt.cli.screen import one_line, tolerate_encoding
from qrt.errors import QrtError

COMMANDS = (
    run.COMMAND,
    bench.COMMAND,
    bench_kernels.COMMAND,
    explain.COMMAND,
    inspect.COMMAND,
    quantize.COMMAND,
    size.COMMAND,
    compare.COMMAND,
    engines.COMMAND,
    supported.COMMAND,
    demo.COMMAND,
)

BAD_INPUT, OWN_MISTAKE, INTERRUPTED = 2, 3, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command with `argv` (default: the process's) and return its exit code."""
    tolerate_encoding(sys.stdout, sys.stderr)
    args = make_parser().parse_args(join_words(sys.argv[1:] if argv is None else argv))
    name = f"qrt {args.command.name}"
    try:
        code: int = args.command.run(args)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return _fail(name, "interrupted", INTERRUPTED)
    except BrokenPipeError:
        # whoever read our output has enough of it; Python would complain again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (QrtError, OSError, MemoryError) as error:
        return _fail(name, _explained(error), BAD_INPUT)
    except Exception as error:
        text = f"internal error, {type(error).__name__}: {error} ({knobs.DEBUG.name}=1 shows where)"
        return _fail(name, text, OWN_MISTAKE)


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = _Parser(
        prog="qrt",
        description="Run quantized ONNX models with NumPy and Numba.",
        epilog=f"environment variables: {', '.join(knob.name for knob in knobs.KNOBS)};"
        " README.md says what each does",
    )
    parser.add_argument("--version", action="version", version=f"qrt {qrt.__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        sub = commands.add_parser(command.name, help=command.summary, description=command.details)
        command.add_options(sub)
        sub.add_argument("--json", action="store_true", help="print one JSON object instead")
        sub.set_defaults(command=command)
    return parser


def join_words(argv: Sequence[str]) -> list[str]:
    """`argv` with a command of two words as one argument, as the parser knows it."""
    words = " ".join(argv[:2])
    return [words, *argv[2:]] if any(words == c.name for c in COMMANDS) else list(argv)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong with the command line in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"{self.prog}: {one_line(message)} (see {self.prog} --help)\n")


def _explained(error: BaseException) -> str:
    if isinstance(error, QrtError):
        return str(error)
    if isinstance(error, MemoryError):
        return f"not enough memory: {error}".rstrip(": ")
    if isinstance(error, OSError) and error.strerror:
        return f"'{error.filename}': {error.strerror}" if error.filename else error.strerror
    return str(error) or type(error).__name__


def _fail(name: str, text: str, code: int) -> int:
    if knobs.DEBUG.get() not in ("", "0"):
        traceback.print_exc()
    print(f"{name}: {one_line(text)}", file=sys.stderr)
    return code
