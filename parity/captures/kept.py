"""What is kept of one side beside its taps, in one file; it and all digests in it are checked."""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from parity.auditing.result import Input
from parity.captures.stored import Entry, StoredTaps
from parity.errors import InputError
from parity.metrics import Gap
from parity.reading import bounds
from parity.reading.content import read_json
from parity.records import json_text, parts, strict, typed
from parity.trace import TraceError

FILE = "capture.json"
SCHEMA = "parity/capture/2"
AGAIN = "capture again"
PRECISIONS = ("float64", "float32")


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run: how it was made, and the file and entries of its taps."""

    precision: str
    execution: str
    device: str
    file: str
    taps: tuple[Entry, ...]

    def stored(self, folder: Path) -> StoredTaps:
        """The taps. Raises TraceError where the file is none of taps."""
        return StoredTaps(folder / self.file, self.taps)


@dataclass(frozen=True, kw_only=True)
class GivenBack:
    """What came back from a port's variables; see `parity.weights.loading.Returned`."""

    count: int | None = None
    changed: Mapping[str, str] = field(default_factory=dict)
    sha256: str = ""


@dataclass(frozen=True, kw_only=True)
class Capture:
    """One side of a pair, kept.

    Args:
        side: "reference" or "port".
        program: the version of this program that made it.
        weights_sha256: digest of the weights that both sides should have; empty where a port has
            its own.
        inputs: what the pair gives the reference.
        facts: what must be the same on both sides, by name.
        runs: of a reference, the float64 one.
        floors, errors32, floors32: of a reference, as `parity.auditing.reference.Reference`.
        step: a training step, where one was captured; of a reference, `step_floors` are its floors.
        stages: of a reference, the part of the model that each module belongs to.
        decided: of a reference, the taps that are scores.
        pairing: how both sides are paired, for people.
        returned: of a port, what came back of the weights that it was given.
        sha256: digest of all of it.
    """

    schema: str
    side: str
    title: str
    program: str = ""
    weights_sha256: str
    inputs: tuple[Input, ...]
    facts: Mapping[str, Any]
    runs: tuple[Run, ...]
    floors: Mapping[str, Gap] = field(default_factory=dict)
    errors32: Mapping[str, Gap] = field(default_factory=dict)
    floors32: Mapping[str, Gap] = field(default_factory=dict)
    step: Run | None = None
    step_floors: Mapping[str, Gap] = field(default_factory=dict)
    stages: Mapping[str, str] = field(default_factory=dict)
    decided: tuple[str, ...] = ()
    pairing: str = ""
    returned: GivenBack = field(default_factory=GivenBack)
    provenance: Mapping[str, Any]
    sha256: str = ""

    @property
    def has_float32(self) -> bool:
        """Whether it holds what float32 is judged by: of a reference its own errors."""
        return bool(self.errors32) or any(one.precision == "float32" for one in self.runs)

    @property
    def digest(self) -> str:
        """What its `sha256` should be."""
        text = json.dumps(strict(parts(replace(self, sha256=""))), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def file_of(precision: str, execution: str) -> str:
    """The name of the file of one run."""
    return f"{precision}-{execution}.safetensors"


def written(found: Capture, folder: Path) -> None:
    """Writes what is kept beside the taps that are in the folder already."""
    text = json_text(parts(replace(found, sha256=found.digest)))
    (folder / FILE).write_text(text, encoding="utf-8")


def read(folder: Path, side: str) -> Capture:
    """What `written` wrote. Raises TraceError for anything else, and for the other side's."""
    path = folder / FILE
    try:
        path.stat()
        content = read_json(path, bounds.RECORD_BYTES, "capture")
    except (OSError, InputError) as error:
        raise TraceError(f"{folder} is no captured side", error, AGAIN) from error
    schema = content.get("schema") if isinstance(content, dict) else None
    if schema != SCHEMA:
        raise TraceError(
            f"{folder} is a capture of another format",
            f"its schema is {schema!r}, this program reads {SCHEMA!r}",
            AGAIN,
        )
    try:
        found = typed(Capture, content)
    except ValueError as error:
        raise TraceError(f"{folder} is a damaged capture", error, AGAIN) from error
    if found.digest != found.sha256:
        raise TraceError(
            f"{path} was changed after it was written",
            f"its digest is {found.digest[:12]}, not {found.sha256[:12]}",
            AGAIN,
        )
    if found.side != side:
        raise TraceError(
            f"{folder} is a captured {found.side}",
            f"--{side}-trace takes a captured {side}",
            f"give it as --{found.side}-trace",
        )
    wrong = next(_faults(found), None)
    if wrong is not None:
        raise TraceError(f"{folder} is a damaged capture", wrong, AGAIN)
    return found


def _faults(found: Capture) -> Iterator[str]:
    """What a side lacks, or has twice, that judging reads; a digest can be made again."""
    runs = (*found.runs, *([found.step] if found.step else []))
    for run in runs:
        if Path(run.file).name != run.file:
            yield "a run is outside of its folder"
        if run.precision not in PRECISIONS:
            yield f"a run is in {run.precision}"
        if len({one.key for one in run.taps}) < len(run.taps):
            yield f"two taps of {run.file} have one name"
    if len({(run.precision, run.execution) for run in runs}) < len(runs):
        yield "two runs are of one precision and execution"
    exact = [run for run in found.runs if run.precision == "float64"]
    if len(exact) > 1:
        yield f"it has {len(exact)} runs in float64"
    if found.side == "port":
        return
    if len(found.runs) != 1 or not exact:
        yield f"it has {len(found.runs)} runs, but should have one, in float64"
    if not found.weights_sha256:
        yield "it says nothing of its weights"
    of_taps = {"floors": found.floors}
    if found.errors32 or found.floors32:
        of_taps |= {"errors32": found.errors32, "floors32": found.floors32}
    measured = [(name, gaps, exact[0]) for name, gaps in of_taps.items()]
    if found.step is not None:
        measured.append(("step_floors", found.step_floors, found.step))
    for name, gaps, run in measured:
        lacking = [one.key for one in run.taps if one.key not in gaps]
        if lacking:
            yield f"{name} lacks {lacking[0]}"
        wild = [key for key, gap in gaps.items() if not _is_measured(gap)]
        if wild:
            yield f"{name} of {wild[0]} are no gap: l2 {gaps[wild[0]].l2}, max {gaps[wild[0]].max}"


def _is_measured(gap: Gap) -> bool:
    """Whether measuring gives such a gap: infinite only where it has a problem, or the reference
    is zero."""
    beyond = gap.problem is not None or gap.rms == 0
    return all(one >= 0 and (beyond or math.isfinite(one)) for one in (gap.l2, gap.max))


def check_partners(reference: Capture, port: Capture) -> None:
    """Raises InputError where the two sides are not of one pair, with all that differs."""
    theirs, ours = _told(reference), _told(port)
    wrong = [
        f"{name}: {_short(theirs.get(name))} of the reference, {_short(ours.get(name))} of the port"
        for name in dict.fromkeys([*theirs, *ours])
        if theirs.get(name) != ours.get(name)
    ]
    if not (reference.weights_sha256 and port.weights_sha256):
        # A port came with its own, which the layers will show; a reference has not yet run.
        wrong = [text for text in wrong if not text.startswith("weights:")]
    if wrong:
        raise InputError(
            "the captured sides are not of one pair",
            "; ".join(wrong),
            "capture one of them again with the other's weights, inputs and version",
        )


def both_trained(reference: bool, port: bool) -> bool:
    """Whether both sides have a training step. Raises InputError where one side alone has one."""
    if reference != port:
        raise InputError(
            f"the captured {'port' if reference else 'reference'} has no training step",
            "the other side has one, which nothing is compared with",
            "capture both with --train, or both without",
        )
    return reference


def _told(found: Capture) -> dict[str, Any]:
    return {
        "weights": found.weights_sha256,
        **{f"input {one.name}": f"{one.size} {one.sha256}" for one in found.inputs},
        **found.facts,
        "version": found.program,
    }


def _short(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:28]}..."
