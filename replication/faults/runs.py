"""Planting a catalogue's faults one after another, and keeping what is known if that is ended."""

import gc
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parity.errors import InputError
from parity.faults import Outcome
from parity.reading.content import parse_json
from parity.records import plain, typed
from replication.faults import state

if TYPE_CHECKING:
    from parity.faults import Fault

NOTES = "outcomes.jsonl"
Builders = Mapping[str, Callable[[str, str], Any]]


@dataclass
class Notes:
    """What was said so far, a JSON object per line, in the file at `path` (None keeps nothing).

    `case` tells one measurement from another: lines of another case are not read back.
    """

    path: Path | None
    case: Mapping[str, str]
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    sound: dict[str, dict[str, bool]] = field(default_factory=dict)

    def read(self) -> None:
        """Takes over what an earlier run of the same case has noted, if there was one."""
        if self.path is None or not self.path.is_file():
            self.start()
            return
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                noted = parse_json(line.encode(), str(self.path))
            except ValueError:  # the last line of a run that was ended while it wrote
                continue
            if noted.pop("case") != dict(self.case):
                continue
            if "outcome" in noted:
                noted["outcome"] = typed(Outcome, noted["outcome"])
            self._keep(noted)

    def start(self) -> None:
        """Begins with an empty file."""
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text("", encoding="utf-8")

    def add(self, noted: dict[str, Any]) -> None:
        """Keeps one object: {"outcome": ...} or {"sound": ..., "noticed": ...}."""
        self._keep(noted)
        if self.path is not None:
            line = json.dumps({"case": dict(self.case), **plain(noted)}) + "\n"
            # At once and at the end, so that several processes can note in one file.
            with self.path.open("ab", buffering=0) as file:
                file.write(line.encode())

    def _keep(self, noted: dict[str, Any]) -> None:
        if "sound" in noted:
            self.sound[noted["sound"]] = noted["noticed"]
        else:
            self.outcomes[noted["outcome"].id] = noted["outcome"]


def run_faults(
    chosen: "Sequence[Fault]", config: str, size: str, builders: Builders, notes: Notes
) -> "tuple[list[Outcome], dict[str, dict[str, bool]]]":
    """What was said of each fault, and by bench which customary checks alarm on a sound port.

    Faults that `notes` has are not run again; each outcome is noted and printed when it is known.
    Raises InputError where the sound port fails already, and RuntimeError where a bench is not the
    same after its faults as before.
    """
    found = {one.id: notes.outcomes[one.id] for one in chosen if one.id in notes.outcomes}
    benches = dict.fromkeys(one.bench for one in chosen)
    for name in benches:
        left = [one for one in chosen if one.bench == name and one.id not in found]
        if not left:
            continue
        bench = _sound_bench(name, config, size, builders, notes)
        for fault in left:
            found[fault.id] = _outcome(fault, bench)
            notes.add({"outcome": found[fault.id]})
            count = f"[{len(found)}/{len(chosen)}]"
            print(f"{count} {describe(found[fault.id])}", file=sys.stderr, flush=True)
        _still_sound(name, bench)
        del bench  # before the next one is built beside it; models refer to themselves
        gc.collect()
    sound = {name: notes.sound[name] for name in benches}
    return [found[one.id] for one in chosen], sound


def _sound_bench(name: str, config: str, size: str, builders: Builders, notes: Notes) -> Any:
    print(f"measuring the reference: {name}", file=sys.stderr, flush=True)
    bench = builders[name](config, size)
    clean = bench.audit()
    if clean.claims:
        raise InputError(
            f"the sound port fails in {name}",
            f"claims: {', '.join(clean.claims)}",
            "run `parity audit` first; faults are planted in a port that is equal",
        )
    notes.add({"sound": name, "noticed": dict(clean.noticed)})
    return bench


def _still_sound(name: str, bench: Any) -> None:
    """Raises RuntimeError where the sound port fails after faults were planted in it."""
    left = bench.audit().claims
    if left:
        raise RuntimeError(f"{name} fails without a fault after its faults: {', '.join(left)}")


def _outcome(fault: "Fault", bench: Any) -> Outcome:
    before = state.snapshot(bench)
    begun = time.perf_counter()
    try:
        state.forget()
        with fault.plant(bench):
            found = bench.audit()
    finally:
        state.forget()
    seconds = round(time.perf_counter() - begun, 3)
    left = state.changed(before, bench)
    if left:
        raise RuntimeError(f"{fault.id} left {', '.join(left[:3])} changed")
    return Outcome.of(
        fault, claims=found.claims, named=found.named, seconds=seconds, noticed=found.noticed
    )


def describe(outcome: Outcome) -> str:
    """One outcome in a line."""
    said = "detected" if outcome.detected else "NOT DETECTED"
    if outcome.detected:
        place = "placed" if outcome.place_exact else "misplaced"
        cause = "explained" if outcome.cause_named else "not explained"
        said = f"{said}, {place}, {cause}"
    if outcome.problem:
        said = f"{said} ({outcome.problem})"
    return f"{outcome.id}: {said}, {outcome.seconds:.1f} s"
