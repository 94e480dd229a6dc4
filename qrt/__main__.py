"""`python -m qrt`: the same as the command `qrt`."""

from __future__ import annotations

import sys

from qrt.cli import main

if __name__ == "__main__":
    sys.exit(main())
