"""Merging methods, one file each: found by their ``METHODS``, imported when the first one is asked for."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Sequence
from typing import Any

from sta_kernels.errors import InputError
from sta_kernels.methods.base import REQUIRED, Method, Parameter, Settings

__all__ = ["get", "names", "resolve"]


@functools.cache
def _files() -> tuple[str, ...]:
    return tuple(module.name for module in pkgutil.iter_modules(__path__))


@functools.cache
def _of_file(file: str) -> tuple[Method, ...]:
    return tuple(getattr(importlib.import_module(f"{__name__}.{file}"), "METHODS", ()))


@functools.cache
def _registry() -> dict[str, Method]:
    methods = [method for file in _files() for method in _of_file(file)]
    return {method.name: method for method in sorted(methods, key=lambda method: method.name)}


def names() -> tuple[str, ...]:
    """Names of all methods, sorted."""
    return tuple(_registry())


def get(name: str) -> Method:
    """The method of that name.

    Raises:
        InputError: no such method; the message lists the known.
    """
    if isinstance(name, str):
        # `dare_ties` is most likely in dare.py: a start that imports one method is a faster one.
        for file in sorted(filter(name.startswith, _files()), key=len, reverse=True):
            for method in _of_file(file):
                if method.name == name:
                    return method
        if name in _registry():
            return _registry()[name]
    raise InputError(f"unknown method {name!r}{_closest(name, names())}; known: {', '.join(names())}")


def resolve(method: Method, n_models: int, /, **parameters: Any) -> Settings:
    """Check a method's parameters and fill in its defaults.

    Args:
        method: as :func:`get` returns it.
        n_models: number of models to be merged.
        **parameters: by Python name or recipe key (``lambda_`` or ``lambda``). None means not given. A parameter that
            has one value per model takes a list, in which None stands for the default, or one value for all.

    Returns:
        Values in their own types, for every parameter of the method.

    Raises:
        InputError: a wrong number of models, an unknown parameter, a value that does not fit, or two parameters that
            exclude each other. The message names the parameter and, where it is unknown, the known ones.
    """
    least, most = method.models
    if n_models < least or (most is not None and n_models > most):
        expected = f"{least} or more" if most is None else str(least) if least == most else f"{least} to {most}"
        raise InputError(f"{method.name}: {n_models} models given, it takes {expected}{_besides(method)}")
    given = _by_parameter(method, parameters)
    shared: dict[str, Any] = {}
    per_model: dict[str, tuple[Any, ...]] = {}
    for parameter in method.parameters:
        value = given.get(parameter.name)
        if parameter.per_model:
            per_model[parameter.name] = _one_per_model(method, parameter, value, n_models)
        else:
            shared[parameter.name] = _checked(method, parameter, value, parameter.key)
    settings = Settings(shared, per_model)
    method.check(settings, n_models)
    return settings


def _closest(given: Any, known: Sequence[str]) -> str:
    from difflib import get_close_matches

    close = get_close_matches(given, known, 1) if isinstance(given, str) else []
    return f" (did you mean `{close[0]}`?)" if close else ""


def _besides(method: Method) -> str:
    """Where to put the base of a method that merges one model into it, to whom mergekit counts both."""
    if method.models != (1, 1) or not method.usual_roles.base:
        return ""
    required = "".join(f", {parameter.name}=…" for parameter in method.parameters if parameter.default is REQUIRED)
    return f" besides the base: sk.merge(model_a, [model_b], method={method.name!r}{required})"


def _by_parameter(method: Method, parameters: dict[str, Any]) -> dict[str, Any]:
    """Values that were given, by Python name."""
    known = {spelling: parameter for parameter in method.parameters for spelling in (parameter.key, parameter.name)}
    given: dict[str, Any] = {}
    for spelling, value in parameters.items():
        if spelling not in known:
            listed = [parameter.name for parameter in method.parameters]
            raise InputError(
                f"{method.name} has no parameter {spelling!r}{_closest(spelling, listed)}; known: {', '.join(listed)}"
            )
        if value is not None:
            given[known[spelling].name] = value
    for parameter in method.parameters:
        for other in parameter.excludes:
            if parameter.name in given and other in given:
                raise InputError(f"{method.name}: give {other} or {parameter.key}, not both")
    return given


def _one_per_model(method: Method, parameter: Parameter, value: Any, n_models: int) -> tuple[Any, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str):
        return (_checked(method, parameter, value, parameter.key),) * n_models
    if len(value) != n_models:
        raise InputError(f"{method.name}: {parameter.key}: {len(value)} values for {n_models} models")
    return tuple(_checked(method, parameter, item, f"{parameter.key}[{i}]") for i, item in enumerate(value))


def _checked(method: Method, parameter: Parameter, value: Any, label: str) -> Any:
    if value is None:
        if parameter.default is REQUIRED:
            raise InputError(f"{method.name}: {label} is required ({parameter.summary})")
        return parameter.default
    try:
        return parameter.check(value)
    except ValueError as error:
        raise InputError(f"{method.name}: {label}: {error}") from None
