"""Compile kernels in a process of its own: `python -m qrt.jit.worker`, a request on stdin.

The request is one JSON object {target, kernels: [[module, name, digest], ...]}; the answer is a
stream of frames on stdout: name length, name, status (0 or 1), body length, body (object or error
text). A kernel whose digest is another here is refused: it would be kept under a false name.
A process per target keeps LLVM's aborts and numba's memory away from the user's process.
"""

from __future__ import annotations

import importlib
import json
import struct
import sys
import traceback

from qrt.jit.target import Target

FRAME = struct.Struct("<IBQ")


def main() -> int:
    """Read the request, compile, write the frames."""
    request = json.load(sys.stdin)
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


if __name__ == "__main__":
    sys.exit(main())
