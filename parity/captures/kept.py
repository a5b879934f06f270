"""What is kept of one side beside its taps, in one file; it and all digests in it are checked."""

import hashlib
import json
from collections.abc import Mapping
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
SCHEMA = "parity/capture/1"
AGAIN = "capture again"


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
    stages: Mapping[str, str] = field(default_factory=dict)
    decided: tuple[str, ...] = ()
    pairing: str = ""
    returned: GivenBack = field(default_factory=GivenBack)
    provenance: Mapping[str, Any]
    sha256: str = ""

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
    import parity

    found = replace(found, program=parity.__version__)
    text = json_text(parts(replace(found, sha256=found.digest)))
    (folder / FILE).write_text(text, encoding="utf-8")


def read(folder: Path, side: str) -> Capture:
    """What `written` wrote. Raises TraceError for anything else, and for the other side's."""
    path = folder / FILE
    try:
        path.stat()
        content = read_json(path, bounds.RECORD_BYTES, "capture")
    except (OSError, InputError) as error:
        raise TraceError(f"{folder} is no captured side", str(error), AGAIN) from error
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
        raise TraceError(f"{folder} is a damaged capture", str(error), AGAIN) from error
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
    if any(Path(run.file).name != run.file for run in found.runs):
        raise TraceError(f"{folder} is a damaged capture", "a run is outside of its folder", AGAIN)
    return found


def check_partners(reference: Capture, port: Capture) -> None:
    """Raises InputError where the two sides are not of one pair, with all that differs."""
    theirs, ours = _told(reference), _told(port)
    wrong = [
        f"{name}: {_short(theirs.get(name))} of the reference, {_short(ours.get(name))} of the port"
        for name in dict.fromkeys([*theirs, *ours])
        if theirs.get(name) != ours.get(name)
    ]
    if not port.weights_sha256:  # it came with its own, which the layers will show
        wrong = [text for text in wrong if not text.startswith("weights:")]
    if wrong:
        raise InputError(
            "the captured sides are not of one pair",
            "; ".join(wrong),
            "capture one of them again with the other's weights, inputs and version",
        )


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
