"""A process that compiles (`jit.worker`), as the process that asks sees it."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Generator
from pathlib import Path
from typing import IO, Any, ClassVar

from qrt import knobs
from qrt.jit.worker import FRAME


class CompileProcess:
    """One request at a time. With `QRT_JIT_KEEP=1` it waits for more, until this process ends."""

    _idle: ClassVar[list[CompileProcess]] = []
    _lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, path: str, keep: bool) -> None:
        # a user's numba settings must not change our code
        env = {name: v for name, v in os.environ.items() if not name.startswith("NUMBA_")}
        self.path, self.keep = path, keep
        self.process = subprocess.Popen(
            [sys.executable, "-m", "qrt.jit.worker", *(["--keep"] if keep else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=env | {"PYTHONPATH": path},
        )
        self._words: list[bytes] = []
        self._drain = threading.Thread(target=self._read_words, daemon=True)
        self._drain.start()

    @classmethod
    def take(cls) -> CompileProcess:
        """One that waits, or a new one."""
        root = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join([root, *filter(None, sys.path)])
        keep = knobs.JIT_KEEP.get() == "1"
        with cls._lock:
            for waiting in cls._idle if keep else ():
                if waiting.path == path and waiting.process.poll() is None:
                    cls._idle.remove(waiting)
                    return waiting
        return cls(path, keep)

    def give_back(self) -> None:
        """Let it wait for the next request, or end it."""
        if self.keep:
            with self._lock:
                self._idle.append(self)
        else:
            self.end()

    def serve(self, request: dict[str, Any]) -> Generator[tuple[str, int, bytes]]:
        """Name, status and body of each frame, until the request is done or the process ends."""
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None and stdout is not None
        try:
            with contextlib.suppress(BrokenPipeError):  # it died: `end` tells what it said
                stdin.write(json.dumps(request).encode() + b"\n")
                stdin.flush()
            while header := _read(stdout, FRAME.size):
                name_nbytes, status, body_nbytes = FRAME.unpack(header)
                if not name_nbytes:
                    return
                name = _read(stdout, name_nbytes)
                body = _read(stdout, body_nbytes)
                if name is None or body is None:
                    return
                yield name.decode(), status, body
        except BaseException:
            self.end()
            raise

    @classmethod
    def end_all(cls) -> None:
        """End those that wait."""
        with cls._lock:
            while cls._idle:
                cls._idle.pop().end()

    def end(self, patience: float = 0) -> str:
        """End it, by force after `patience` seconds; returns its exit code and last words."""
        with contextlib.suppress(OSError):
            self.process.stdin.close()  # type: ignore[union-attr]
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(patience)
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._drain.join()
        self.process.stdout.close()  # type: ignore[union-attr]
        self.process.stderr.close()  # type: ignore[union-attr]
        said = b"".join(self._words).decode(errors="replace")[-2000:]
        return f"exit code {self.process.returncode}: {said}"

    def _read_words(self) -> None:
        assert self.process.stderr is not None
        self._words += self.process.stderr


def _read(pipe: IO[bytes], nbytes: int) -> bytes | None:
    data = pipe.read(nbytes)
    return data if len(data) == nbytes else None


atexit.register(CompileProcess.end_all)
