"""Objects for kernels: from the cache, else compiled side by side in worker processes."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import IO

from qrt import knobs
from qrt.errors import CompileError
from qrt.jit.cache import read_object, write_object
from qrt.jit.declare import Kernel
from qrt.jit.digest import kernel_digest
from qrt.jit.target import Target
from qrt.jit.worker import FRAME

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
    # a user's numba settings must not change our code
    env = {name: v for name, v in os.environ.items() if not name.startswith("NUMBA_")}
    package_root = str(Path(__file__).resolve().parents[2])
    env["PYTHONPATH"] = os.pathsep.join([package_root, *filter(None, sys.path)])
    process = subprocess.Popen(
        [sys.executable, "-m", "qrt.jit.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=env,
    )
    assert process.stdin and process.stdout and process.stderr
    stderr: list[bytes] = []
    drain = threading.Thread(target=lambda pipe: stderr.append(pipe.read()), args=(process.stderr,))
    drain.start()
    try:
        with contextlib.suppress(BrokenPipeError):  # it died: what it said is reported below
            process.stdin.write(json.dumps(request).encode())
            process.stdin.close()
        left = [k.name for k in kernels]
        while left:
            header = _read(process.stdout, FRAME.size)
            if header is None:
                break
            name_nbytes, status, body_nbytes = FRAME.unpack(header)
            name = (_read(process.stdout, name_nbytes) or b"").decode()
            body = _read(process.stdout, body_nbytes)
            if body is None:
                break
            if status:
                raise CompileError(f"kernel {name!r} does not compile: {body.decode()}")
            receive(name, body)
            left.remove(name)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        drain.join()
        process.stdout.close()
        process.stderr.close()
    if left:
        words = b"".join(stderr).decode(errors="replace")[-2000:]
        raise CompileError(
            f"the compiler stopped (exit {process.returncode}) at kernel {left[0]!r}: {words}"
        )


def _read(pipe: IO[bytes], nbytes: int) -> bytes | None:
    data = pipe.read(nbytes)
    return data if len(data) == nbytes else None
