"""Results do not depend on the number of threads: whole graphs on 1, 2, 3 and 4, bit for bit.

More threads than CPUs are no hindrance here, and rows too small to be split are split nevertheless.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qrt.api.loading import session_arguments
from qrt.api.session import Session
from qrt.errors import UnsupportedError
from qrt.vm.state import DONE
from tests.contract import evaluate
from tests.graphs import SPELLINGS, random_graph
from tests.graphs.draw import Array
from tests.sessions import Cases, Model, difference, differences
from tests.vm.test_vm_team import muster

COUNTS = (1, 2, 3, 4)
GRAPHS = 40  # of each spelling


@pytest.fixture(autouse=True)
def split_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many CPUs as threads, and no program or row too small."""
    monkeypatch.setattr("qrt.vm.cpus.usable_threads", lambda: max(COUNTS))
    monkeypatch.setattr("qrt.vm.executor.SMALL_NBYTES", 0)
    monkeypatch.setattr("qrt.ops.product_rows.THREAD_MACS", 0)
    monkeypatch.setattr("qrt.ops.depthwise.THREAD_MACS", 0)


def outputs_of(model: Model, inputs: dict[str, Array], threads: int) -> list[dict[str, Array]]:
    """Outputs of a first run, and of two for which all of `threads` were awaited."""
    session = Session(**session_arguments(model, threads, None, None))
    names = [output.name for output in session.get_outputs()]
    results = []
    for _ in range(3):
        results.append(dict(zip(names, session.run(None, dict(inputs)), strict=True)))
        (executor,) = session._programs._executors.values()
        if executor._pool is None:
            assert executor.threads == threads == 1
            break
        if len(results) > 1 and not executor.program.hosts:
            assert executor._pool._block[DONE] == threads - 1
        muster(executor)
    return results


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_random_graphs(spelling: str) -> None:
    cases = Cases()
    for seed in range(GRAPHS):
        model, inputs = random_graph(np.random.default_rng((seed, 13)), spelling)
        expected = evaluate(model, inputs)
        for threads in COUNTS:
            try:
                results = outputs_of(model, inputs, threads)
            except UnsupportedError:
                break
            what = next(filter(None, (differences(expected, got) for got in results)), "")
            cases.check(f"seed {seed}, {threads} threads", what)
    cases.finish(f"random graphs, {spelling}, seeds 0..{GRAPHS - 1}", at_least=2 * GRAPHS)


@pytest.mark.shared("*_qdq", "*_qop")
def test_a_shared_model(shared_model: Path) -> None:
    with np.load(shared_model.with_suffix(".npz")) as stored:
        inputs = {name[3:]: stored[name] for name in stored.files if name.startswith("in:")}
    (alone,) = outputs_of(shared_model, inputs, 1)
    cases = Cases()
    for threads in COUNTS[1:]:
        for got in outputs_of(shared_model, inputs, threads):
            what = next(filter(None, (difference(alone[n], got[n]) for n in alone)), "")
            cases.check(f"{threads} threads", what)
    cases.finish(shared_model.stem, at_least=len(COUNTS) - 1)
