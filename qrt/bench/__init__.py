"""Kernels of every family at the sizes of real networks, beside this machine's limits and a rival.

`qrt bench kernels` is this room at the command line; `bench/` in a checkout walks the same tables:
`families` (what can be timed, and what it is held to), `cases` (at which sizes). A case is an ONNX
model of one operator, which qrt and onnxruntime both run.
"""
