"""The faults and the benches of a catalogue, by the name of its module."""

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from parity.errors import InputError
from replication.layers import layer_error

if TYPE_CHECKING:
    from parity.faults import Fault

CATALOGUE = "replication.faults.catalogue.every"


def chosen_faults(ids: Sequence[str] | None, catalogue: str = CATALOGUE) -> "list[Fault]":
    """The faults of these ids, None for all of a catalogue. Raises InputError for an unknown id."""
    known = {one.id: one for one in load_catalogue(catalogue)}
    unknown = [one for one in ids or () if one not in known]
    if unknown:
        raise InputError(
            f"no fault is called {unknown[0]!r}",
            f"the catalogue has {len(known)}",
            "`parity faults list` shows them",
        )
    return [known[one] for one in ids] if ids else list(known.values())


def load_catalogue(module: str) -> "list[Fault]":
    """The faults of a catalogue, which is any importable module that has `FAULTS`."""
    try:
        return list(import_module(module).FAULTS)
    except (ImportError, AttributeError) as error:
        if isinstance(error, ModuleNotFoundError) and layer_error(error):
            raise
        raise InputError(
            f"{module} is no catalogue of faults",
            str(error),
            "name a module that has FAULTS, a sequence of parity.faults.Fault",
        ) from error


def benches_of(module: str) -> dict[str, Any]:
    """The functions that build benches by name: those of the harness, and the catalogue's own."""
    from replication.faults.benches.registry import BENCHES

    return {**BENCHES, **getattr(import_module(module), "BENCHES", {})}
