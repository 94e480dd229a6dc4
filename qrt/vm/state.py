"""The words that a run and its threads share, by slot: one block per call, one per pool.

A block is int64 and aligned to a cache line. Words that several threads write stand on lines of
their own.
"""

from __future__ import annotations

LINE = 8  # words of a cache line
WORD = 8  # bytes

# call block: constant during a run
ROWS, N_ROWS, WIDTH, ARENA, CONSTANTS, THREADS, POOL, STAMPS = range(8)
CLOCK, SECONDS, NANOSECONDS = range(LINE, LINE + 3)  # the clock of the stamps, and its answer
# call block: written by all threads of a run
ARRIVED = 2 * LINE  # threads that came to a barrier, over all barriers of the run
PASSED = 4 * LINE  # barriers that all threads came to
FAILURE = 6 * LINE  # 0, else (row + 1) << 32 | status of the first row that failed
DONE = 8 * LINE  # threads of the pool that have left the run
CALL_WORDS = 10 * LINE

# pool block: header, then one box per worker
BUSY, WORKERS, POOL_CLOCK, SPIN_NS = range(4)  # BUSY: 1 while a run has the workers
BOXES = 2 * LINE
# box of a worker
MAIL = 0  # EMPTY, ASLEEP, STOP, else the address of the call block to run
TIME = LINE  # seconds, nanoseconds
MUTEX, CONDITION = 2 * LINE, 4 * LINE  # pthread objects, at most 128 bytes each
BOX_WORDS = 6 * LINE
EMPTY, ASLEEP, STOP = 0, 1, 2
