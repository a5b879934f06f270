"""The shape of a declared map, checked before it is used: what it cannot mean is refused."""

import fnmatch
from collections.abc import Collection, Mapping

from parity.errors import InputError
from parity.names import Declared, Names, filled, matched
from parity.trace import tap_key
from parity.weights import Loaded, State, Variable, Weights


def check_sides(names: Declared | None) -> None:
    """Raises InputError for a mapped module whose output is declared to be on one side only, but
    not that the other side's is: it could never be compared."""
    if not isinstance(names, Names):
        return
    for ours, theirs in (names.modules or {}).items():
        place = tap_key(theirs, "output")
        listed = [
            any(fnmatch.fnmatchcase(place, pattern) for pattern in only)
            for only in (names.reference_only, names.port_only)
        ]
        if listed[0] != listed[1]:
            one, other = ("reference", "port") if listed[0] else ("port", "reference")
            raise InputError(
                f"`{ours}` is mapped to `{theirs}`, but nothing that they return is compared",
                f"{place} is declared to be in the {one} only, and has no counterpart left",
                f"declare it for the {other} as well, or leave the module out of `modules`",
            )


def check_kinds(
    names: Declared,
    weights: Weights | Loaded | None,
    state: State,
    variables: Mapping[str, Variable],
    modules: Collection[str],
) -> None:
    """Raises InputError for a mapped module that has weights on one side only.

    Args:
        weights: what is declared of single weights, which may lie elsewhere.
        state: the reference's tensors.
        variables, modules: the port's.
    """
    if not isinstance(names, Names) or names.modules is None or not isinstance(weights, Weights):
        return
    elsewhere = (
        {*weights.variables.values(), *weights.reference_only},
        {
            *weights.variables,
            *weights.port_only,
        },
    )
    for pattern, theirs in names.modules.items():
        for path, parts in matched([pattern], modules, "port").items():
            other = filled(theirs, parts)
            has = [
                any(_below(one, place) for one in places)
                for place, places in ((other, state), (path, variables))
            ]
            declared = any(
                _below(one, place) or fnmatch.fnmatchcase(place, one.rpartition(".")[0])
                for place, places in zip((other, path), elsewhere, strict=True)
                for one in places
            )
            if has[0] != has[1] and not declared:
                with_weights = "reference" if has[0] else "port"
                raise InputError(
                    f"`{path}` is mapped to `{other}`, but only the {with_weights}'s has weights",
                    "one of them is a layer, the other an activation or another step between",
                    "mend the path in `modules`, or declare the weights in `Weights`",
                )


def _below(path: str, module: str) -> bool:
    return path.startswith(f"{module}.")
