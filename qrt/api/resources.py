"""What all programs of a session share: constants, memory, threads, limits."""

from __future__ import annotations

import threading
import weakref
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from qrt.program import ConstantPool
from qrt.program.builder import Ops
from qrt.vm import ArenaBudget, Executor

if TYPE_CHECKING:
    from qrt.api.programs import Programs

MAX_STEPS = 1_000_000  # of all loops of a run together; 10 s of the smallest ones
LEFT_BEHIND = 1 << 24  # bytes of constants of programs that were let go


@dataclass(eq=False)
class Resources:
    """`max_bytes` limits constants and arenas, and what loops collect; `max_steps` the steps of all
    loops of one run."""

    features: frozenset[str]
    threads: int = 1
    max_bytes: int | None = None
    max_steps: int = MAX_STEPS
    ops: Ops | None = None
    pool: ConstantPool = field(default_factory=ConstantPool)
    budget: ArenaBudget = field(default_factory=lambda: ArenaBudget(None))
    lock: threading.Lock = field(default_factory=threading.Lock)
    _settled: int = 0  # bytes of constants when a program was first let go
    executors: weakref.WeakSet[Executor] = field(default_factory=weakref.WeakSet)
    programs: weakref.WeakSet[Programs] = field(default_factory=weakref.WeakSet)

    def __post_init__(self) -> None:
        self.budget.limit = self.max_bytes

    @property
    def nbytes(self) -> int:
        """Bytes of constants and of all arenas now."""
        return self.pool.nbytes + self.budget.taken

    def renew(self) -> bool:
        """Begin with no constants, and True, once those that programs left behind outweigh the
        others; every program is then made anew when it is next wanted, and runs end on the old.
        """
        self._settled = self._settled or self.pool.nbytes
        if self.pool.nbytes <= 2 * self._settled + LEFT_BEHIND:
            return False
        self._settled = 0
        self.pool = ConstantPool()
        self.executors.clear()
        return True

    def added(self, executor: Executor) -> None:
        """`executor` is new: its program may have added constants."""
        for other in self.executors:
            other.rebase()
        self.executors.add(executor)
        if self.max_bytes is not None:
            self.budget.limit = max(0, self.max_bytes - self.pool.nbytes)

    def forked(self) -> None:
        """In the child of a fork: whoever held a lock does not exist here."""
        self.lock = threading.Lock()
        self.budget.forked()
