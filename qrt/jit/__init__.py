"""The only room that knows Numba and LLVM: declare kernels, compile them to objects, load them.

A kernel is declared with `@kernel` without importing numba. When a program needs it, worker
processes compile it for a target (a set of CPU features) to an object file, which the cache keeps
and llvmlite loads in a few milliseconds; so a warm process never imports numba.
"""
