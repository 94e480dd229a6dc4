"""Kernels that check every address before they use it, for `QRT_BOUNDS=check`.

A pass over the optimized LLVM IR of a kernel, so that it sees the loads and stores that will run,
whoever made them: numba's loops, LLVM's vectorizer, generated tiles. Each asks `qrt_check` whether
the row may touch those bytes. One that may not gets a block of its own instead, and the kernel
returns OUT_OF_BOUNDS when it is done: no foreign memory is read or written.

What a row may touch stands in a block of int64 words, whose address the row holds in slot TABLE:

    0 number of spans; of the first refused access 1 its address minus the arena's, 2 minus the
    constants', 3 its bytes, 4 whether it writes; from 5 on four words a span: origin (0 arena, 1
    constants, 2 the row), first byte, one past the last, 1 for writing or 0 for reading
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator

from qrt.errors import CompileError

OUT_OF_BOUNDS = 90  # the status that such a kernel returns
TABLE = 1  # slot of a row; a bound row does not need its node there
HEAD, SPAN = 5, 4  # words
ARENA, CONSTANTS, ROW = range(3)  # origins

# context words: 0 block, 1..3 addresses of the origins, 4 failed; from byte ASIDE on, what refused
# accesses get
_ASIDE, _ASIDE_NBYTES = 64, 1024
_WORDS = (_ASIDE + _ASIDE_NBYTES) // 8
_STACK = 1 << 20  # bytes below the context that are the kernel's own

# calls that take pointers and touch no memory through them
_HARMLESS = ("llvm.lifetime.", "llvm.assume", "llvm.prefetch", "llvm.experimental.noalias.")
_NAME = r'@(?:"[^"]*"|[\w.$-]+)'
_LOCAL = r'%(?:"[^"]*"|[\w.$-]+)'
# a kernel that is called by address checks what it touches itself, in the block of the same row
_KERNEL_CALL = re.compile(rf"call i64 {_LOCAL}\((?:ptr [^,]*, ){{3}}i64 [^,]*, i64 [^,]*\)")
_BITS = {"half": 16, "bfloat": 16, "float": 32, "double": 64, "ptr": 64}


def checked_ir(text: str, entry: str) -> str:
    """The module `text` (optimized LLVM IR) with checks; `entry` is the kernel's function.

    Raises CompileError for an instruction that touches memory in a way that is not known here.
    """
    lines = text.splitlines()
    own = {
        match.group(0)
        for line in lines
        if line.startswith("define ") and (match := re.search(_NAME, line))
    }
    out: list[str] = []
    for number, line in enumerate(lines):
        if line.startswith("define "):
            out.append(_definition(line, entry))
        elif line.startswith("attributes "):
            # the checks make functions touch more than LLVM found
            out.append(re.sub(r" memory\([^)]*\)", "", line))
        elif line.startswith("  "):
            out += _instruction(line, own, f"qrt.{number}")
        else:
            out.append(line)
    return "\n".join(out) + _CHECKS + _entry(entry)


def _definition(line: str, entry: str) -> str:
    name = re.search(_NAME, line)
    assert name is not None
    if name.group(0) in (f"@{entry}", f'@"{entry}"'):
        line = line.replace("define ", "define internal ", 1).replace(name.group(0), "@qrt_body", 1)
        name = re.search(_NAME, line)
        assert name is not None
    return _with_context(line, name.end())


def _with_context(line: str, at: int) -> str:
    """The context as one more argument in the parentheses that open at `at`."""
    close = _closing(line, at)
    empty = not line[at + 1 : close].strip()
    return f"{line[:close]}{'' if empty else ', '}ptr %qrt.c{line[close:]}"


def _closing(text: str, at: int) -> int:
    """Where the bracket at `at` closes."""
    depth, quoted = 0, False
    for i in range(at, len(text)):
        quoted ^= text[i] == '"'
        if not quoted:
            depth += (text[i] in "([{<") - (text[i] in ")]}>")
        if depth == 0:
            return i
    raise CompileError(f"bounds: no closing bracket in {text!r}")


def _parts(text: str) -> list[str]:
    """What commas separate outside of brackets and quotes."""
    parts, depth, quoted, start = [], 0, False, 0
    for i, c in enumerate(text):
        quoted ^= c == '"'
        if not quoted:
            depth += (c in "([{<") - (c in ")]}>")
            if c == "," and depth == 0:
                parts.append(text[start:i].strip())
                start = i + 1
    return [*parts, text[start:].strip()]


def _nbytes(kind: str) -> int:
    """Bytes of an LLVM type."""
    kind = kind.strip()
    if kind in _BITS:
        return _BITS[kind] // 8
    if re.fullmatch(r"i\d+", kind):
        return -(-int(kind[1:]) // 8)
    array = re.fullmatch(r"[<\[](\d+) x (.+)[>\]]", kind)
    if array is None:
        raise CompileError(f"bounds: what is the size of {kind!r}?")
    count, element = int(array.group(1)), array.group(2)
    bits = re.fullmatch(r"i(\d+)", element) if kind[0] == "<" else None
    return -(-count * int(bits.group(1)) // 8) if bits else count * _nbytes(element)


def _instruction(line: str, own: set[str], label: str) -> Iterator[str]:
    """`line`, and before it the checks it needs, whose values begin with `label`."""
    body = re.sub(rf"^ +(?:{_LOCAL} = )?", "", line)
    word = body.split(" ", 1)[0]
    if word in ("load", "store"):
        yield from _access(line, body, word, label)
    elif word in ("call", "tail", "notail", "musttail"):
        yield from _call(line, own, label)
    elif word in ("atomicrmw", "cmpxchg", "invoke", "va_arg"):
        raise CompileError(f"bounds: cannot check {line.strip()!r}")
    else:
        yield line


def _access(line: str, body: str, word: str, label: str) -> Iterator[str]:
    parts = _parts(body.removeprefix(word))
    if word == "load":
        kind, pointer = parts[0], parts[1]
    else:
        kind, pointer = _type_of(parts[0]), parts[1]
    if re.match(r"(atomic|volatile)\b", kind) or not pointer.startswith("ptr "):
        raise CompileError(f"bounds: cannot check {line.strip()!r}")
    if "@" in re.sub(r'"[^"]*"', "", pointer):
        yield line  # a constant of the module
        return
    address = pointer.removeprefix("ptr ")
    yield from _check(label, address, str(_within_aside(kind)), word == "store")
    yield f"  %{label}.d = getelementptr i8, ptr %qrt.c, i64 {_ASIDE}"
    yield f"  %{label}.p = select i1 %{label}.k, ptr {address}, ptr %{label}.d"
    before, _, after = line.rpartition(f"ptr {address}")
    yield f"{before}ptr %{label}.p{after}"


def _within_aside(kind: str) -> int:
    nbytes = _nbytes(kind)
    if nbytes > _ASIDE_NBYTES:
        raise CompileError(f"bounds: {kind} is larger than {_ASIDE_NBYTES} bytes")
    return nbytes


def _type_of(operand: str) -> str:
    """The type that leads an operand."""
    if operand[0] in "<[{":
        return operand[: _closing(operand, 0) + 1]
    return operand.split(" ", 1)[0]


def _check(label: str, address: str, nbytes: str, writes: bool) -> Iterator[str]:
    yield f"  %{label}.a = ptrtoint ptr {address} to i64"
    yield (
        f"  %{label}.k = call i1 @qrt_check(ptr %qrt.c, i64 %{label}.a, i64 {nbytes},"
        f" i64 {int(writes)})"
    )


def _call(line: str, own: set[str], label: str) -> Iterator[str]:
    found = re.search(_NAME, line)
    if found is None:  # inline assembly takes no pointers; a call by address could be anything
        if " asm " not in line and not _KERNEL_CALL.search(line):
            raise CompileError(f"bounds: cannot check {line.strip()!r}")
        yield line
        return
    name, at = found.group(0), found.end()
    if name in own:
        yield re.sub(r"^( +(?:\S+ = )?)(?:tail |notail )", r"\1", _with_context(line, at))
        return
    close = _closing(line, at)
    operands = _parts(line[at + 1 : close])
    plain = name.strip('@"')
    touching = [o for o in operands if re.match(r"ptr\b|<\d+ x ptr>", o)]
    if not touching or plain.startswith(_HARMLESS):
        yield line
        return
    if plain.startswith("llvm.masked."):
        changed = yield from _masked(operands, plain, label)
    elif re.match(r"llvm\.mem(cpy|move|set)\.", plain):
        changed = yield from _block(operands, label)
    else:
        raise CompileError(f"bounds: cannot check {line.strip()!r}")
    yield f"{line[: at + 1]}{', '.join(changed)}{line[close:]}"


def _masked(operands: list[str], name: str, label: str) -> Generator[str, None, list[str]]:
    """Every lane that the mask selects is checked; where one is refused, no lane is touched.
    Returns the new operands."""
    writes = name.startswith(("llvm.masked.store", "llvm.masked.scatter"))
    at = next(i for i, o in enumerate(operands) if re.match(r"<\d+ x i1>", o))
    kind = _type_of(operands[at])
    mask = operands[at].removeprefix(kind).strip()
    count = int(kind[1:].split(" ", 1)[0])
    where = next(i for i, o in enumerate(operands) if re.match(r"ptr\b|<\d+ x ptr>", o))
    values = operands[0] if writes else operands[-1]
    nbytes = _nbytes(_type_of(values)) // count
    pointer = operands[where].rsplit(" ", 1)[1]
    yield f"  %{label}.b = bitcast {kind} {mask} to i{count}"
    bits = f"%{label}.b"
    if count < 64:
        yield f"  %{label}.z = zext i{count} %{label}.b to i64"
        bits = f"%{label}.z"
    if operands[where].startswith("ptr"):
        yield f"  %{label}.a = ptrtoint ptr {pointer} to i64"
        yield (
            f"  %{label}.k = call i1 @qrt_check_lanes(ptr %qrt.c, i64 {bits}, i64 %{label}.a,"
            f" i64 {nbytes}, i64 {int(writes)})"
        )
    else:
        fine = "true"
        for lane in range(count):
            each = f"{label}.{lane}"
            yield f"  %{each}.p = extractelement <{count} x ptr> {pointer}, i64 {lane}"
            yield f"  %{each}.a = ptrtoint ptr %{each}.p to i64"
            yield f"  %{each}.s = lshr i64 {bits}, {lane}"
            yield f"  %{each}.o = and i64 %{each}.s, 1"
            yield (
                f"  %{each}.k = call i1 @qrt_check_lanes(ptr %qrt.c, i64 %{each}.o,"
                f" i64 %{each}.a, i64 {nbytes}, i64 {int(writes)})"
            )
            yield f"  %{each}.f = and i1 {fine}, %{each}.k"
            fine = f"%{each}.f"
        yield f"  %{label}.k = and i1 {fine}, true"
    yield f"  %{label}.m = select i1 %{label}.k, {kind} {mask}, {kind} zeroinitializer"
    return [*operands[:at], f"{kind} %{label}.m", *operands[at + 1 :]]


def _block(operands: list[str], label: str) -> Generator[str, None, list[str]]:
    """memcpy, memmove, memset: of what is refused, nothing is done. Returns the new operands."""
    nbytes = operands[2].removeprefix("i64 ")
    fine = "true"
    for i, operand in enumerate(operands[:2]):
        if operand.startswith("ptr") and "@" not in operand:
            yield from _check(f"{label}.{i}", operand.rsplit(" ", 1)[1], nbytes, i == 0)
            yield f"  %{label}.{i}.f = and i1 {fine}, %{label}.{i}.k"
            fine = f"%{label}.{i}.f"
    yield f"  %{label}.n = select i1 {fine}, i64 {nbytes}, i64 0"
    return [*operands[:2], f"i64 %{label}.n", *operands[3:]]


_CHECKS = f"""
define internal i1 @qrt_check(ptr %c, i64 %a, i64 %n, i64 %w) noinline {{
entry:
  %top = ptrtoint ptr %c to i64
  %bottom = sub i64 %top, {_STACK}
  %depth = sub i64 %a, %bottom
  %stack = icmp ult i64 %depth, {_STACK + 8 * _WORDS}
  %nothing = icmp eq i64 %n, 0
  %own = or i1 %stack, %nothing
  br i1 %own, label %fine, label %look
look:
  %block = load i64, ptr %c
  %b = inttoptr i64 %block to ptr
  %unknown = icmp eq i64 %block, 0
  br i1 %unknown, label %fail, label %count
count:
  %spans = load i64, ptr %b
  br label %head
head:
  %i = phi i64 [ 0, %count ], [ %next, %span ]
  %more = icmp ult i64 %i, %spans
  br i1 %more, label %span, label %refuse
span:
  %words = mul i64 %i, {SPAN}
  %word = add i64 %words, {HEAD}
  %s = getelementptr i64, ptr %b, i64 %word
  %origin = load i64, ptr %s
  %origin.word = add i64 %origin, 1
  %base.p = getelementptr i64, ptr %c, i64 %origin.word
  %base = load i64, ptr %base.p
  %first.p = getelementptr i64, ptr %s, i64 1
  %first = load i64, ptr %first.p
  %stop.p = getelementptr i64, ptr %s, i64 2
  %stop = load i64, ptr %stop.p
  %kind.p = getelementptr i64, ptr %s, i64 3
  %kind = load i64, ptr %kind.p
  %start = add i64 %base, %first
  %offset = sub i64 %a, %start
  %size = sub i64 %stop, %first
  %room = sub i64 %size, %n
  %fits = icmp ule i64 %n, %size
  %inside = icmp ule i64 %offset, %room
  %same = icmp eq i64 %kind, %w
  %both = and i1 %fits, %inside
  %ok = and i1 %both, %same
  %next = add i64 %i, 1
  br i1 %ok, label %fine, label %head
fine:
  ret i1 true
refuse:
  %failed.p = getelementptr i64, ptr %c, i64 4
  %failed = load i64, ptr %failed.p
  %again = icmp ne i64 %failed, 0
  br i1 %again, label %refused, label %fail.first
fail.first:
  %arena.p = getelementptr i64, ptr %c, i64 1
  %arena = load i64, ptr %arena.p
  %constants.p = getelementptr i64, ptr %c, i64 2
  %constants = load i64, ptr %constants.p
  %to.arena = sub i64 %a, %arena
  %to.constants = sub i64 %a, %constants
  %r1 = getelementptr i64, ptr %b, i64 1
  store i64 %to.arena, ptr %r1
  %r2 = getelementptr i64, ptr %b, i64 2
  store i64 %to.constants, ptr %r2
  %r3 = getelementptr i64, ptr %b, i64 3
  store i64 %n, ptr %r3
  %r4 = getelementptr i64, ptr %b, i64 4
  store i64 %w, ptr %r4
  br label %fail
fail:
  %fail.p = getelementptr i64, ptr %c, i64 4
  store i64 1, ptr %fail.p
  br label %refused
refused:
  ret i1 false
}}

define internal i1 @qrt_check_lanes(ptr %c, i64 %bits, i64 %a, i64 %n, i64 %w) noinline {{
entry:
  br label %head
head:
  %left = phi i64 [ %bits, %entry ], [ %rest, %next ]
  %at = phi i64 [ %a, %entry ], [ %after, %next ]
  %any = icmp ne i64 %left, 0
  br i1 %any, label %lane, label %fine
lane:
  %one = and i64 %left, 1
  %chosen = icmp ne i64 %one, 0
  br i1 %chosen, label %check, label %next
check:
  %ok = call i1 @qrt_check(ptr %c, i64 %at, i64 %n, i64 %w)
  br i1 %ok, label %next, label %bad
next:
  %rest = lshr i64 %left, 1
  %after = add i64 %at, %n
  br label %head
fine:
  ret i1 true
bad:
  ret i1 false
}}
"""


def _entry(name: str) -> str:
    """The kernel: makes the context and runs the body in it."""
    return f"""
define i64 @"{name}"(ptr %row, ptr %arena, ptr %constants, i64 %thread, i64 %threads) {{
  %c = alloca [{_WORDS} x i64], align 64
  store [{_WORDS} x i64] zeroinitializer, ptr %c
  %table.p = getelementptr i64, ptr %row, i64 {TABLE}
  %table = load i64, ptr %table.p
  store i64 %table, ptr %c
  %c1 = getelementptr i64, ptr %c, i64 1
  store ptr %arena, ptr %c1
  %c2 = getelementptr i64, ptr %c, i64 2
  store ptr %constants, ptr %c2
  %c3 = getelementptr i64, ptr %c, i64 3
  store ptr %row, ptr %c3
  %status = call i64 @qrt_body(ptr %row, ptr %arena, ptr %constants, i64 %thread, i64 %threads,
      ptr %c)
  %c4 = getelementptr i64, ptr %c, i64 4
  %failed = load i64, ptr %c4
  %bad = icmp ne i64 %failed, 0
  %result = select i1 %bad, i64 {OUT_OF_BOUNDS}, i64 %status
  ret i64 %result
}}
"""
