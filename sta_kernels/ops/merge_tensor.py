"""Every method on one parameter tensor: a function each, made from the registry."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sta_kernels import methods
from sta_kernels.kernels import get_backend
from sta_kernels.kernels.buffers import Buffer, room_on
from sta_kernels.kernels.reference.environment import ieee_arithmetic
from sta_kernels.methods.adamerging import Coefficients
from sta_kernels.methods.base import REQUIRED, Method, Operands, Parameter, Place
from sta_kernels.methods.run import Piece, merge_pieces
from sta_kernels.ops import _checks as check
from sta_kernels.ops import _schemas
from sta_kernels.ops._schemas import implement


def merge_tensor(
    base: Tensor | None,
    finetuned: Sequence[Tensor],
    importances: Sequence[Tensor] = (),
    *,
    method: str,
    tensor: str = "",
    out: Tensor | None = None,
    **parameters: Any,
) -> Tensor:
    """Merge one tensor by any method; ``sta_kernels.ops.ties(…)`` is this with ``method="ties"``.

    What a method takes over a whole model it takes over this tensor.

    Args:
        base: θ0; None for methods that do not read it.
        finetuned: θ_i, at least one tensor; all of one shape and device, any strides; float32, bfloat16, float16 or
            float64, each its own.
        importances: one per tensor, where the method reads any.
        method: :func:`sta_kernels.methods.names` lists all.
        tensor: name by which random draws are told apart; those of :func:`sta_kernels.merge` are the entries' names.
        out: receives the result; of the same shape and device, any floating dtype. It may be one of the operands
            itself, but may not share memory with one in another way.
        **parameters: of the method, by their Python names.

    Returns:
        ``out``, or a new contiguous tensor of the base's dtype (without a base: of the first fine-tuned tensor's). No
        gradient flows through it.

    Raises:
        TypeError: a dtype that no kernel reads (integer, complex, float8), a sparse tensor, or no tensor at all.
        ValueError: an operand or a parameter that is missing, unknown or does not fit; the message names it.

    Numerics:
        As the method says; the same bits as from state dicts and files. On a GPU, each round of statistics that the
        method declares is waited for.
    """
    finetuned = check.tensors("finetuned", finetuned)
    importances = check.tensors("importances", importances)
    encoded = _encoded(parameters)
    if out is None:
        return _merge_tensor(base, finetuned, importances, method, encoded, tensor)
    _merge_tensor_out(base, finetuned, importances, method, encoded, tensor, out)
    return out


@torch.compiler.assume_constant_result
def _encoded(parameters: dict[str, Any]) -> str:
    return json.dumps({name: _plain(name, value) for name, value in parameters.items()})


def _plain(name: str, value: Any) -> Any:
    """A parameter's value as JSON has it, from what :func:`sta_kernels.merge` takes.

    Raises:
        ValueError: neither numbers, text, a path, a table, nor any of these in a list or by name.
    """
    if isinstance(value, Coefficients):
        return value.table()
    if isinstance(value, np.bool_ | np.integer):
        return value.item()
    if isinstance(value, np.floating):
        return float(str(value))
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(name, each) for key, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_plain(name, each) for each in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ValueError(f"{name}: expected a number, text, or a list of them, got {value!r}")


def function_of(method: Method) -> Any:
    """A function for one method, with its parameters as keywords."""

    def merge(
        base: Tensor | None,
        finetuned: Sequence[Tensor],
        importances: Sequence[Tensor] = (),
        *,
        tensor: str = "",
        out: Tensor | None = None,
        **parameters: Any,
    ) -> Tensor:
        return merge_tensor(base, finetuned, importances, method=method.name, tensor=tensor, out=out, **parameters)

    keywords = [_keyword(parameter) for parameter in method.parameters]
    own = [each for each in inspect.signature(merge).parameters.values() if each.kind is not each.VAR_KEYWORD]
    merge.__signature__ = inspect.Signature([*own[:3], *keywords, *own[3:]], return_annotation="Tensor")  # type: ignore[attr-defined]
    merge.__name__ = merge.__qualname__ = method.name
    merge.__doc__ = _documentation(method)
    return merge


def _keyword(parameter: Parameter) -> inspect.Parameter:
    default = inspect.Parameter.empty if parameter.default is REQUIRED else parameter.default
    return inspect.Parameter(parameter.name, inspect.Parameter.KEYWORD_ONLY, default=default)


def _documentation(method: Method) -> str:
    listed = [
        f"    {parameter.name}: {parameter.summary}{'; one number, or one per model' if parameter.per_model else ''}"
        for parameter in method.parameters
    ]
    return "\n".join(
        [
            inspect.getdoc(type(method)) or method.summary,
            "",
            "Args:",
            "    base, finetuned, importances, tensor, out: see :func:`merge_tensor`, which also says what is raised.",
            *listed,
        ]
    )


def _new(
    base: Tensor | None,
    finetuned: list[Tensor],
    importances: list[Tensor],
    method: str,
    parameters: str,
    tensor: str,
) -> Tensor:
    out = _schemas.merge_tensor(base, finetuned, importances, method, parameters, tensor)
    _run(base, finetuned, importances, method, parameters, tensor, out)
    return out


def _into(
    base: Tensor | None,
    finetuned: list[Tensor],
    importances: list[Tensor],
    method: str,
    parameters: str,
    tensor: str,
    out: Tensor,
) -> None:
    _schemas.merge_tensor_out(base, finetuned, importances, method, parameters, tensor, out)
    named = [(f"finetuned[{index}]", each) for index, each in enumerate(finetuned)]
    named += [(f"importances[{index}]", each) for index, each in enumerate(importances)]
    check.no_overlap(out, named if base is None else [("base", base), *named], in_place=True)
    _run(base, finetuned, importances, method, parameters, tensor, out)
    torch.autograd.graph.increment_version(out)


@ieee_arithmetic()
def _run(
    base: Tensor | None,
    finetuned: list[Tensor],
    importances: list[Tensor],
    method: str,
    parameters: str,
    tensor: str,
    out: Tensor,
) -> None:
    chosen = methods.get(method)
    settings = methods.resolve(chosen, len(finetuned), **json.loads(parameters))
    reads_base = chosen.roles(settings).base
    operands = Operands(
        tuple(Buffer.from_torch(each.detach()) for each in finetuned),
        Buffer.from_torch(base.detach()) if base is not None and reads_base else None,
        tuple(Buffer.from_torch(each.detach()) for each in importances),
    )
    shape = tuple(out.shape)
    piece = Piece(operands, Buffer.from_torch(out.detach()), Place.alone(shape, tensor))
    backend = get_backend(device=str(out.device))
    threads = torch.get_num_threads()
    merge_pieces(chosen, [piece], settings, backend=backend, threads=threads, room=room_on(out.device))


implement("merge_tensor", _new)
implement("merge_tensor_out", _into)
_merge_tensor = torch.ops.sta_kernels.merge_tensor.default
_merge_tensor_out = torch.ops.sta_kernels.merge_tensor_out.default
