"""States and lists. A kernel never changes a tensor, so a state's old value may live on in other variables.

A MIL list is a Python tuple here; writing makes a new one, longer when the index asks for it and the list may grow.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quantkit.mil.table import Cell, Ints, List, Tensors, op


@op(exact=True, pure=False)
def read_state(input: Cell) -> Tensor:
    return input.value


@op(exact=True, pure=False)
def coreml_update_state(state: Cell, value: Tensor) -> Tensor:
    """Replace a state's value and return it (coremltools' reader makes this of `write_state` and `read_state`)."""
    state.value = value
    return value


DTYPES = {"fp16": torch.float32, "fp32": torch.float32, "int32": torch.int32, "bool": torch.bool}


def make_list_refuses(elem_shape: Tensors, init_length: int | None = None, **_: object) -> str | None:
    if any(isinstance(size, str) for size in elem_shape):
        return "a list whose elements have a shape that is only known at run time"
    return None


@op(exact=True, refuses=make_list_refuses)
def make_list(elem_shape: Tensors, dtype: str, init_length: int, dynamic_length: bool) -> List:
    """Return a list of zeros."""
    zeros = torch.zeros([int(size) for size in elem_shape], dtype=DTYPES[dtype])
    return (zeros,) * init_length


@op(exact=True)
def list_length(ls: List) -> Tensor:
    return torch.tensor(len(ls), dtype=torch.int32)


@op(exact=True)
def list_write(ls: List, index: int, value: Tensor) -> List:
    """Return the list with one element replaced; an index behind the end makes it longer, with zeros between."""
    longer = (*ls, *(torch.zeros_like(value),) * (index + 1 - len(ls)))
    return (*longer[:index], value, *longer[index + 1 :])


@op(exact=True)
def list_read(ls: List, index: int) -> Tensor:
    return ls[index]


@op(exact=True)
def list_gather(ls: List, indices: Ints) -> Tensor:
    return torch.stack([ls[index] for index in indices])


@op(exact=True)
def list_scatter(ls: List, indices: Ints, value: Tensor) -> List:
    result = ls
    for index, element in zip(indices, value):
        result = list_write(result, index, element)
    return result
