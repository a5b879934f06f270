"""The arguments of one call, with their tensors named after parameters."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from parity.calls.structures import Slot, fill, flatten, held
from parity.trace import TraceError

NOT_NAMED = ("training",)


@dataclass(frozen=True)
class Arguments:
    """The arguments of one call, by parameter name, with slots for tensors; objects that the call
    may change are as they were before it."""

    signature: inspect.Signature
    values: dict[str, Any]
    unnamed: dict[str, Any]

    def build(self, tensor: Callable[[Slot], Any], **changes: Any) -> tuple[tuple, dict]:
        """Positional and keyword arguments for a new call; `changes` replace parameters."""
        kept = {name: part for name, part in self.values.items() if name not in changes}
        values = {**{name: fill(part, tensor) for name, part in kept.items()}, **changes}
        bound = inspect.BoundArguments(self.signature, _ordered(self.signature, values))
        return bound.args, {**bound.kwargs, **self.unnamed}


def _ordered(signature: inspect.Signature, values: dict[str, Any]) -> Any:
    return {name: values[name] for name in signature.parameters if name in values}


def named_arguments(
    signature: inspect.Signature, args: tuple, kwargs: dict, is_tensor: Callable[[Any], bool]
) -> tuple[Arguments, list[tuple[str, Any]]]:
    """The arguments with slots, and their tensors named after the parameters of `signature`.

    The tensors of a module's only parameter need no parameter name: theirs begins inside it.
    Raises TraceError where a module that is called so has other parameters.
    """
    parameters = [p for p in signature.parameters.values() if p.name not in NOT_NAMED]
    signature = signature.replace(parameters=parameters)
    unnamed = {key: value for key, value in kwargs.items() if key in NOT_NAMED}
    try:
        bound = signature.bind(*args, **{k: v for k, v in kwargs.items() if k not in NOT_NAMED})
    except TypeError as error:
        raise TraceError(
            f"a module is called with other arguments than it has: {error}",
            f"its parameters are {', '.join(one.name for one in parameters) or 'none'}",
            "give the inputs of the pair in their order, or by these names",
        ) from error
    values, tensors = {}, []
    for parameter in parameters:
        if parameter.name not in bound.arguments:
            continue
        bare = len(parameters) == 1 or parameter.kind is parameter.VAR_KEYWORD
        part, found = flatten(
            bound.arguments[parameter.name],
            is_tensor,
            "" if bare else parameter.name,
            records=True,
        )
        values[parameter.name] = held(part)
        tensors += found
    return Arguments(signature, values, unnamed), tensors


def split_inputs(inputs: Any) -> tuple[tuple, dict]:
    """Positional and keyword arguments: a tuple is positional, a dict is by name."""
    if isinstance(inputs, tuple):
        return inputs, {}
    if isinstance(inputs, dict):
        return (), inputs
    raise TraceError(
        f"inputs are a {type(inputs).__name__}",
        "a model is called with positional or with named arguments",
        "give a tuple for positional arguments, or a dict of names",
    )
