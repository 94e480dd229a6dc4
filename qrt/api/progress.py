"""The one line on stderr while something takes long: the first compilation, calibration."""

from __future__ import annotations

import contextlib
import sys
import time

from qrt import knobs

_BAR = 30  # columns
_WIDTH = 78  # columns; a longer line would wrap and could not be overwritten


class ProgressLine:
    """Called with (done, of, kernel name); `QRT_PROGRESS=0` silences it.

    On a terminal the line is rewritten in place; elsewhere there is one at start and end.
    """

    def __init__(self) -> None:
        self._start = time.monotonic()

    def __call__(self, done: int, of: int, name: str) -> None:
        stream = sys.stderr
        if knobs.PROGRESS.get() == "0" or stream is None:
            return
        with contextlib.suppress(OSError, ValueError):  # a closed stderr is no reason to fail
            if done == of:
                seconds = time.monotonic() - self._start
                text = f"qrt: compiled {of} kernels for this CPU in {seconds:.1f} s"
                stream.write(f"\r{text:<{_WIDTH}}\n" if stream.isatty() else text + "\n")
            elif stream.isatty():
                text = f"qrt: compiling kernels for this CPU, {done} of {of} ({name})"
                stream.write(f"\r{text[:_WIDTH]:<{_WIDTH}}")
            elif done == 0:
                stream.write(f"qrt: compiling {of} kernels for this CPU, once ...\n")
            stream.flush()


class CalibrationLine:
    """Called with the number of runs done, of `of` (None: who knows) in one pass over the data.

    Drawn on a terminal only, and taken away at the end; `QRT_PROGRESS=0` silences it.
    """

    def __init__(self, of: int | None) -> None:
        self._of = of
        self._drawn = False

    def __enter__(self) -> CalibrationLine:
        return self

    def __exit__(self, *error: object) -> None:
        if self._drawn:
            self._write("")

    def __call__(self, done: int) -> None:
        if self._of:
            full = _BAR * min(done, self._of) // self._of
            bar = f"[{'#' * full}{'.' * (_BAR - full)}] {done} of {self._of} runs"
        else:
            bar = f"{done} runs done"
        self._write(f"qrt: calibrating {bar}")

    def _write(self, text: str) -> None:
        stream = sys.stderr
        if knobs.PROGRESS.get() == "0" or stream is None or not stream.isatty():
            return
        with contextlib.suppress(OSError, ValueError):  # a closed stderr is no reason to fail
            stream.write(f"\r{text[:_WIDTH]:<{_WIDTH}}\r")
            stream.flush()
            self._drawn = True
