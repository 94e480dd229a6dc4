"""What a command of the command line is: a name, its options, and what it does."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Command:
    """`qrt NAME`. `summary` is its line in `qrt --help`; `run` returns the exit code."""

    name: str
    summary: str
    details: str
    add_options: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
