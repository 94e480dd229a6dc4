"""Objects for kernels: from the cache, else compiled side by side in worker processes."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterable
from dataclasses import asdict

from qrt import knobs
from qrt.errors import CompileError
from qrt.jit.cache import read_object, write_object
from qrt.jit.declare import Kernel
from qrt.jit.digest import kernel_digest
from qrt.jit.process import CompileProcess
from qrt.jit.target import Target

Progress = Callable[[int, int, str], None]


def build_objects(
    kernels: Iterable[Kernel], target: Target, progress: Progress | None = None
) -> dict[str, bytes]:
    """Object bytes by kernel name. Compiles what the cache lacks; `progress(done, of, name)`.

    Raises CompileError with the compiler's own words when a kernel does not compile.
    """
    digests = {k.name: kernel_digest(k, target) for k in kernels}
    objects: dict[str, bytes] = {}
    missing: list[Kernel] = []
    for k in kernels:
        body = read_object(digests[k.name])
        if body is None:
            missing.append(k)
        else:
            objects[k.name] = body
    if not missing:
        return objects
    done = 0
    lock = threading.Lock()
    if progress:
        progress(0, len(missing), missing[0].name)

    def receive(name: str, body: bytes) -> None:
        nonlocal done
        with lock:
            objects[name] = body
            write_object(digests[name], body)
            done += 1
            if progress:
                progress(done, len(missing), name)

    _compile(missing, target, digests, receive)
    return objects


def _compile(
    kernels: list[Kernel],
    target: Target,
    digests: dict[str, str],
    receive: Callable[[str, bytes], None],
) -> None:
    errors: list[str] = []
    # heavy kernels stand together in the list: dealing them out in turn balances the workers
    shares = [s for s in (kernels[i :: _workers()] for i in range(_workers())) if s]

    def run(share: list[Kernel]) -> None:
        try:
            _run_worker(share, target, digests, receive)
        except Exception as error:
            errors.append(str(error))

    threads = [threading.Thread(target=run, args=(share,)) for share in shares]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise CompileError("; ".join(errors))


def _workers() -> int:
    named = knobs.JIT_WORKERS.get()
    if named:
        return max(1, int(named))
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _run_worker(
    kernels: list[Kernel],
    target: Target,
    digests: dict[str, str],
    receive: Callable[[str, bytes], None],
) -> None:
    request = {
        "target": asdict(target),
        "kernels": [[k.fn.__module__, k.name, digests[k.name]] for k in kernels],
    }
    process = CompileProcess.take()
    left = [k.name for k in kernels]
    with contextlib.closing(process.serve(request)) as frames:
        for name, status, body in frames:
            if status:
                raise CompileError(f"kernel {name!r} does not compile: {body.decode()}")
            receive(name, body)
            left.remove(name)
    if left:
        words = process.end(patience=1)
        raise CompileError(f"the compiler stopped at kernel {left[0]!r}: {words}")
    process.give_back()
