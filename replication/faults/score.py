"""How many planted faults were detected, placed and explained."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from parity.claims import Claim, all_hold, claim
from parity.errors import InputError
from parity.judge import DEFAULT
from parity.measurements import Findings, Missed
from parity.provenance import provenance
from replication.layers import layer_error
from reports.chapters.faults import FaultScoreResult

if TYPE_CHECKING:
    from parity.faults import Fault, Score
    from replication.faults.runs import Notes


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


def fault_score(
    chosen: "Sequence[Fault]", notes: "Notes", command: str, processes: int = 1
) -> FaultScoreResult:
    """The result of planting these faults one after another, or in several processes at once.

    `notes.case` has the configuration, the size and the catalogue; outcomes that it has are kept.
    Raises InputError where the sound port fails already.
    """
    from parity.faults import score
    from replication.faults.runs import run_faults

    config, size, catalogue = (notes.case[name] for name in ("config", "size", "catalogue"))
    begun = time.perf_counter()
    if processes > 1:
        from replication.faults.processes import run_in_processes

        run_in_processes(chosen, notes, processes)
    outcomes, sound = run_faults(chosen, config, size, benches_of(catalogue), notes)
    total = score(outcomes)
    claims = score_claims(total, command)
    return FaultScoreResult(
        config=config,
        size=size,
        verdict="holds" if all_hold(claims) else "does not hold",
        claims=tuple(claims),
        score=total,
        criteria_on_the_sound_port=sound,
        outcomes=tuple(outcomes),
        seconds=round(time.perf_counter() - begun, 1),
        command=command,
        provenance=provenance(),
    )


def load_catalogue(module: str) -> "list[Fault]":
    """The faults of a catalogue, which is any importable module that has `FAULTS`."""
    from importlib import import_module

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
    from importlib import import_module

    from replication.faults.benches.registry import BENCHES

    return {**BENCHES, **getattr(import_module(module), "BENCHES", {})}


def score_claims(total: "Score", command: str) -> list[Claim]:
    """That every planted fault is detected, and most are placed and explained."""
    return [
        claim(
            "detected",
            "Every planted fault is detected",
            Findings(total.faults, list(total.undetected)),
            "planted faults at which no claim failed",
            command,
        ),
        *(
            claim(
                identity,
                f"Of {100 * getattr(DEFAULT, identity):g} % of the planted faults, {what}",
                Missed(total.faults, list(found), identity),
                "share of the planted faults of which this is not so",
                command,
            )
            for identity, what, found in (
                ("placed", "the place that is named first is right", total.misplaced),
                ("explained", "the first cause that is given there is right", total.unexplained),
            )
        ),
    ]
