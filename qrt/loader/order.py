"""Topological order of NodeProtos: kept as it is when valid, found when it exists."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Container, Iterable, Sequence

from onnx import NodeProto

from qrt.errors import ModelError

_SHOWN = 6  # nodes of a cycle that a message names


def order_nodes(
    nodes: Sequence[NodeProto],
    given: Container[str],
    label: Callable[[int], str],
    captured: Sequence[Iterable[str]] = (),
    outer: Container[str] = (),
) -> list[int]:
    """Indices of `nodes` so that each comes after the producers of its inputs.

    `given` are names known before any node runs; `label(i)` names node i in messages; `captured[i]`
    are names that the subgraphs of node i read; `outer` are names of the graph around this one,
    which nodes may use for results of their own. Among the possible orders it is the one closest to
    the file's. Raises ModelError for a value produced twice, an input that nothing produces, and a
    cycle.
    """
    producer: dict[str, int] = {}
    for i, node in enumerate(nodes):
        for name in node.output:
            if not name:
                continue
            if name in producer:
                raise ModelError(
                    f"{label(i)}: a value is produced once, but '{name}' comes from"
                    f" {label(producer[name])} too"
                )
            if name in given:
                raise ModelError(
                    f"{label(i)}: a value is produced once, but '{name}' is an input"
                    " or initializer already"
                )
            producer[name] = i

    waiting: list[set[int]] = []
    readers: list[list[int]] = [[] for _ in nodes]
    for i, node in enumerate(nodes):
        needs: set[int] = set()
        for position, name in enumerate(node.input):
            if not name or name in given:
                continue
            if name not in producer:
                if name in outer:
                    continue
                raise ModelError(
                    f"{label(i)}: input {position} is '{name}', a missing tensor:"
                    " no input, initializer or node gives it"
                )
            needs.add(producer[name])
        for name in captured[i] if captured else ():
            if name in producer and name not in given:
                needs.add(producer[name])
            elif name not in given and name not in outer:
                raise ModelError(
                    f"{label(i)}: a subgraph reads '{name}', a missing tensor:"
                    " no input, initializer or node gives it"
                )
        waiting.append(needs)
        for j in needs:
            readers[j].append(i)

    ready = [i for i, needs in enumerate(waiting) if not needs]
    left = [len(needs) for needs in waiting]
    order: list[int] = []
    while ready:
        i = heapq.heappop(ready)
        order.append(i)
        for j in readers[i]:
            left[j] -= 1
            if left[j] == 0:
                heapq.heappush(ready, j)
    if len(order) != len(nodes):
        _refuse_cycle(waiting, set(range(len(nodes))).difference(order), label)
    return order


def _refuse_cycle(waiting: list[set[int]], stuck: set[int], label: Callable[[int], str]) -> None:
    """Walk backwards among the stuck nodes until one comes again; name the loop."""
    seen: dict[int, int] = {}
    i = min(stuck)
    while i not in seen:
        seen[i] = len(seen)
        i = min(waiting[i] & stuck)
    cycle = [j for j, step in seen.items() if step >= seen[i]][::-1]
    names = " -> ".join(label(j) for j in (*cycle[:_SHOWN], cycle[0]))
    more = f" ({len(cycle)} nodes in all)" if len(cycle) > _SHOWN else ""
    raise ModelError(f"nodes feed each other in a cycle: {names}{more}")
