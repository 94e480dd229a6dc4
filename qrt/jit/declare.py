"""Declare kernels, helpers and intrinsics without importing numba.

A declaration remembers a Python function. Only a compile worker turns it into the numba object
(`_numba_type_` is numba's own hook for foreign globals), so importing qrt costs no numba.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar, cast

F = TypeVar("F", bound=Callable[..., Any])


class Declared:
    """A function that kernels may call; `build()` gives the numba object, in a worker only."""

    def __init__(self, fn: Callable[..., Any]) -> None:
        self.fn = fn
        self.__name__ = fn.__name__
        self.__doc__ = fn.__doc__
        self.__module__ = fn.__module__

    def build(self) -> Any:
        raise NotImplementedError

    @cached_property
    def built(self) -> Any:
        return self.build()

    @property
    def _numba_type_(self) -> Any:
        from numba.core.registry import cpu_target

        typing_context = cpu_target.typing_context
        built = self.built
        typing_context.refresh()  # makes numba see an intrinsic that was made after its start
        return typing_context.resolve_value_type(built)

    def __call__(self, *args: Any) -> Any:
        raise TypeError(f"{self.__name__} runs only inside a kernel")


class Helper(Declared):
    """A plain function, compiled and inlined into the kernels that call it; runs as Python too."""

    def build(self) -> Any:
        from qrt.jit.numba_options import HELPER_OPTIONS, njit

        return njit(**HELPER_OPTIONS)(self.fn)

    def __call__(self, *args: Any) -> Any:
        return self.fn(*args)


class Intrinsic(Declared):
    """A typing function that returns (signature, codegen), as numba's `@intrinsic` takes it."""

    def build(self) -> Any:
        from numba.extending import intrinsic as numba_intrinsic

        return numba_intrinsic(self.fn)


def helper(fn: F) -> F:
    """Declare a scalar helper that kernels call (inlined by LLVM)."""
    return cast(F, Helper(fn))


def intrinsic(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Declare an intrinsic: `fn(typingctx, *types) -> (signature, codegen)`."""
    return Intrinsic(fn)


@dataclass(frozen=True)
class Extent:
    """Bytes that a row touches: `nbytes` from `start` of the operand in field `field`."""

    field: str
    nbytes: int
    writes: bool = False
    start: int = 0


@dataclass(frozen=True)
class Kernel:
    """A native function of the one kernel signature, compiled per target, known by `name`.

    `fn(row, arena, constants, thread, threads) -> status`: pointers to int64, uint8, uint8, then
    two int64; the status is int64, zero is fine. `fields` names the slots of its row after the
    header, in order; `extents` says from a row's values which bytes of which operand it touches
    (it raises ValueError when the values contradict each other); `features` is what it needs.
    `calls`: fields that name other kernels, which it calls by address, and of which family.
    """

    name: str
    fn: Callable[..., int]
    fields: tuple[str, ...]
    extents: Callable[[Mapping[str, int]], list[Extent]]
    family: str
    features: frozenset[str] = frozenset()
    preconditions: Mapping[str, int] = field(default_factory=dict)
    calls: Mapping[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"Kernel({self.name})"


# slots of every row before its kernel's own fields
HEADER = ("kernel", "node", "barrier")
KERNELS: dict[str, Kernel] = {}


def slots(fields: tuple[str, ...]) -> range:
    """The row slots of a kernel's `fields`, in order: `X, Y, N = slots(FIELDS)`."""
    return range(len(HEADER), len(HEADER) + len(fields))


def kernel(
    name: str,
    fields: tuple[str, ...],
    extents: Callable[[Mapping[str, int]], list[Extent]],
    *,
    family: str = "",
    features: tuple[str, ...] = (),
    preconditions: Mapping[str, int] | None = None,
    calls: Mapping[str, str] | None = None,
) -> Callable[[Callable[..., int]], Kernel]:
    """Declare the function below as the kernel called `name` (unique)."""

    def register(fn: Callable[..., int]) -> Kernel:
        if name in KERNELS:
            raise ValueError(f"kernel {name!r} is declared twice")
        KERNELS[name] = Kernel(
            name, fn, fields, extents, family or name, frozenset(features), preconditions or {},
            calls or {},
        )  # fmt: skip
        return KERNELS[name]

    return register
