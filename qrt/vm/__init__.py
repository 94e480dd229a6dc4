"""Run programs: names become addresses for this CPU, one native call walks all rows."""

from qrt.vm.budget import ArenaBudget
from qrt.vm.cpus import resolve_threads, usable_threads
from qrt.vm.executor import Executor
from qrt.vm.profile import time_rows

__all__ = ["ArenaBudget", "Executor", "resolve_threads", "time_rows", "usable_threads"]
