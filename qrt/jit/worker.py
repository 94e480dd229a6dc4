"""Compile kernels in a process of its own: `python -m qrt.jit.worker [--keep]`, requests on stdin.

A request is one line of JSON, {target, kernels: [[module, name, digest], ...]}; the answer is a
stream of frames on stdout: name length, name, status (0 or 1), body length, body (object or error
text), and a frame without a name when the request is done. A kernel whose digest is another here is
refused: it would be kept under a false name. A process per target keeps LLVM's aborts and numba's
memory away from the user's process. With `--keep` a fork serves each request, so that the next one
finds numba imported, which takes longer than a kernel.
"""

from __future__ import annotations

import importlib
import json
import os
import struct
import sys
import traceback
from typing import Any

from qrt.jit.target import Target

FRAME = struct.Struct("<IBQ")


def main(keep: bool) -> int:
    """Serve requests until stdin ends."""
    out = sys.stdout.buffer
    for line in sys.stdin:
        request = json.loads(line)
        status = _serve_in_fork(request) if keep else _serve(request)
        out.write(FRAME.pack(0, status, 0))
        out.flush()
    return 0


def _serve(request: dict[str, Any]) -> int:
    """Compile, and write the frames."""
    out = sys.stdout.buffer
    target = Target(**request["target"])
    from qrt.jit.compile import compile_object
    from qrt.jit.declare import KERNELS
    from qrt.jit.digest import kernel_digest

    for module, name, digest in request["kernels"]:
        try:
            importlib.import_module(module)
            if kernel_digest(KERNELS[name], target) != digest:
                raise RuntimeError("qrt's files changed since this process was started")
            status, body = 0, compile_object(KERNELS[name], target)
        except Exception:
            status, body = 1, traceback.format_exc().encode()
        encoded = name.encode()
        out.write(FRAME.pack(len(encoded), status, len(body)) + encoded + body)
        out.flush()
    return 0


def _serve_in_fork(request: dict[str, Any]) -> int:
    """`_serve`, in a child that has what any target needs already; 0 when it came to its end."""
    from numba.core.registry import cpu_target

    # what numba loads with the first function it compiles, for any target
    cpu_target.typing_context.refresh()
    cpu_target.target_context.refresh()
    for module, _, _ in request["kernels"]:
        importlib.import_module(module)
    child = os.fork()
    if child == 0:
        try:
            os._exit(_serve(request))
        finally:
            os._exit(1)
    return int(os.waitpid(child, 0)[1] != 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] == ["--keep"]))
