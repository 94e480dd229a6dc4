"""The words that a run and its threads share, by slot: one block per call, one per pool.

A block is int64 and aligned to a cache line. Words that several threads write stand on pairs of
lines of their own (a core fetches lines in pairs).
"""

from __future__ import annotations

LINE = 8  # words of a cache line
PAIR = 2 * LINE
WORD = 8  # bytes

# call block: constant during a run, but for the last
ROWS, N_ROWS, WIDTH, ARENA, CONSTANTS, POOL, FIRST, LAST_NS = range(LINE)  # how long it last took
CLOCK, SECONDS, NANOSECONDS = range(LINE, LINE + 3)  # a clock, and its answer
TIMES, TIMED, SINCE = range(LINE + 3, LINE + 6)  # where the ns of rows go (0: nowhere); the row
# that runs, and since when
FAILURE = PAIR  # 0, else (row + 1) << 32 | status of the first row that failed
CALL_WORDS = 2 * PAIR

# pool block: of the pool; BUSY is 1 while a run has the workers, LEADER is that run's thread,
# PATIENCE_NS how long it waits for workers at most, NEVER is always 0
BUSY, WORKERS, POOL_CLOCK, SPIN_NS, PATIENCE_NS, LAST_END, LEADER, NEVER = range(LINE)
ALONE, PENALTY = range(LINE, LINE + 2)  # runs to walk alone now, and after the last disturbance
# pool block: of the run that has the workers
ARRIVED = PAIR  # threads that came to a barrier, over all barriers of the run
NEXT_TEAM = ARRIVED + 1  # how many threads walk on from the next barrier
PASSED = 2 * PAIR  # (barriers that all threads came to) << TEAM_BITS | threads that walk on
DONE = 3 * PAIR  # workers that have left the run
SLEEPERS = 4 * PAIR  # threads that sleep, or are about to, until a word of the run changes
DOOR, BELL = 5 * PAIR, 6 * PAIR  # the mutex and the condition that they sleep at
BOXES = 7 * PAIR  # one box per thread, the caller's first
TEAM_BITS = 16

# box of a thread
MAIL = 0  # a state below
TICKET_CALL, TICKET_THREAD, TICKET_ROW, TICKET_MET, TICKET_EXPECTED = range(PAIR, PAIR + 5)
SEAT = 2 * PAIR  # 1 + the CPU on which the thread last found itself
TIME = 3 * PAIR  # seconds, nanoseconds
WAITED = TIME + 2  # ns that the thread waited long for others
MUTEX, CONDITION = 4 * PAIR, 5 * PAIR  # pthread objects, at most 128 bytes each
MASK = 6 * PAIR  # a set of CPUs, one bit each
MASK_WORDS = 128  # 8192 CPUs, the most that Linux can be built for
BOX_WORDS = MASK + MASK_WORDS

# states of a box: a worker waits, is offered a run, is ready to join it, is admitted to it
EMPTY, ASLEEP, OFFER, READY, DOZING, ADMITTED, STOP = range(7)  # DOZING: ready, and asleep
