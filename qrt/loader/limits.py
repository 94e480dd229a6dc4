"""Limits: how much the loader takes from one file before it refuses."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Upper bounds on what a model may ask of this process; generous for real networks."""

    # a protobuf message cannot be larger; weights beyond it live in external data
    max_file_nbytes: int = 2**31 - 1
    # one tensor, unpacked to NumPy
    max_tensor_nbytes: int = 2**33
    # all tensors together, unpacked to NumPy
    max_model_nbytes: int = 2**35
    # nodes, those of subgraphs too, after model-local functions are inlined
    max_nodes: int = 1_000_000
    # inputs and outputs of all nodes together, after model-local functions are inlined
    max_operands: int = 16_000_000
    # functions calling functions, subgraphs inside of subgraphs
    max_depth: int = 64
    # characters of one name
    max_name: int = 4096
    # dimensions of one tensor; the most that every NumPy holds
    max_rank: int = 32
    # elements of one list attribute
    max_list: int = 2**20


DEFAULT_LIMITS = Limits()
