"""`parity demo`: the whole story on one machine, from a checkpoint to a report that is verified."""

import contextlib
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from parity.files import kept_folder
from parity.steps import Steps
from replication.commands import options
from replication.console.first_verdict import first_verdict
from replication.story.progress import Finished, story_of
from replication.story.stages import FULL, SHORT, STAGES, Scale, Stage, Story

if TYPE_CHECKING:
    from parity.auditing.result import AuditResult
    from reports.verification.verify import Verification

OUT = Path("reports/out/demo")
KEPT = "kept"
"""What the stages made: the converted checkpoint, the scenes, the runs, each result."""

SCHEMA = "maskformer-replication/demo/1"


def register(app: typer.Typer) -> None:
    """Adds `parity demo`."""
    app.command("demo", epilog="Example: parity demo --out reports/out/demo")(demo)


def demo(
    out: options.OutFolder = OUT,
    small: Annotated[
        bool, typer.Option("--small", help="The same story with a small model and fewer steps.")
    ] = False,
    as_json: options.AsJson = False,
) -> None:
    """Convert, compare, train, evaluate, compile for a TPU, plant faults, and report.

    The report is complete or not there at all.

    Exit status: 0 every claim holds, 1 one does not, 2 wrong usage or input.
    """
    found, seconds = tell(out, scale=SHORT if small else FULL)
    result = described(found, seconds, out)
    options.end(result, as_json, lambda: _print(found, seconds, out), holds(found))


def tell(
    out: Path, stages: Sequence[Stage] = STAGES, scale: Scale = FULL
) -> "tuple[Verification, dict[str, float]]":
    """Runs the stages and writes the report into `out`; its verification, and seconds by stage.

    What the stages made stays in `out/kept`, so that the report's commands can be run. Where a
    stage breaks off, those before it stay there, and the same call goes on with it.
    """
    from reports.loading import load
    from reports.render import write_report
    from reports.verification.verify import verify

    about = story_of(stages, scale)
    clock = Clock(stages, scale)
    with kept_folder(out, KEPT, about.finished) as kept:
        done = about.read(kept)
        if done:
            print(f"{len(done)} of {len(stages)} stages are there already", file=sys.stderr)
        clock.seconds.update({name: one.seconds for name, one in done.items()})
        try:
            for stage in stages:
                if stage.name in done:
                    continue
                before = {path.name for path in kept.iterdir()}
                with clock(stage):
                    steps = Steps(total=stage.steps)
                    found = stage.run(Story(kept, out, steps, scale, partial(_print_first, clock)))
                done[stage.name] = Finished.of(clock.seconds[stage.name], kept, before, found)
                about.write(kept, done)
        except BaseException:
            if done:
                told = f"{len(done)} of {len(stages)} stages are kept in {kept}"
                print(f"{told}; the same command goes on after them", file=sys.stderr)
            raise
        recorded = [kept / path for stage in stages for path in done[stage.name].recorded]
        write_report(load(recorded), out)
        about.forget(kept)
    return verify(out), clock.seconds


def _print_first(clock: "Clock", found: "AuditResult") -> None:
    """What the model's own comparison says, long before the demo ends."""
    print(
        first_verdict(found, f", on the whole model, after {clock.now():.0f} seconds"),
        file=sys.stderr,
        flush=True,
    )


@dataclass
class Clock:
    """Announces stages with the time that is left, and keeps their seconds."""

    stages: Sequence[Stage]
    scale: Scale
    seconds: dict[str, float] = field(default_factory=dict)
    _begun: float | None = None

    @contextlib.contextmanager
    def __call__(self, stage: Stage) -> Iterator[None]:
        """Runs one stage."""
        number = list(self.stages).index(stage) + 1
        minutes = max(1, round(self.left() / 60))
        title = stage.title.format(**vars(self.scale))
        print(
            f"{number} of {len(self.stages)}: {title}; about {minutes} min left",
            file=sys.stderr,
            flush=True,
        )
        self._begun = time.perf_counter()
        yield
        self.seconds[stage.name] = round(time.perf_counter() - self._begun, 1)
        self._begun = None

    def now(self) -> float:
        """Seconds of all stages, up to now."""
        current = 0.0 if self._begun is None else time.perf_counter() - self._begun
        return sum(self.seconds.values()) + current

    def left(self) -> float:
        """Seconds that are left: what is expected of the rest, at the pace so far."""
        expected = {one.name: one.seconds(self.scale) for one in self.stages}
        known = sum(expected[name] for name in self.seconds)
        pace = sum(self.seconds.values()) / known if known else 1.0
        return pace * (sum(expected.values()) - known)


def holds(found: "Verification") -> bool:
    """Whether the report is what its evidence says, and no claim of it fails."""
    return not (found.problems or found.failing)


def described(found: "Verification", seconds: Mapping[str, float], out: Path) -> dict[str, Any]:
    """The demo as one JSON object (`SCHEMA`)."""
    return {
        "schema": SCHEMA,
        "verdict": "equal" if holds(found) else "different",
        "report": str(out / "report.html"),
        "claims": len(found.claims),
        "failing": [{"file": one.file, "id": one.id} for one in found.failing],
        "problems": [str(one) for one in found.problems],
        "seconds": dict(seconds),
        "total_seconds": round(sum(seconds.values()), 1),
    }


def _print(found: "Verification", seconds: Mapping[str, float], out: Path) -> None:
    _print_claims(found)
    _print_end(found, seconds, out)


def _print_claims(found: "Verification") -> None:
    """Every claim with its verdict, and what it was judged from."""
    from rich.table import Table

    from replication.console.tables import print_table

    table = Table(title="Claims")
    for name in ("claim", "verdict", "measured", "limit", "evidence"):
        table.add_column(name, justify="right" if name in ("measured", "limit") else "left")
    for one in found.claims:
        figures = ("" if x is None else f"{x:.3g}" for x in (one.value, one.limit))
        evidence = Path(one.file).parent.name if "/" in one.file[9:] else Path(one.file).stem
        table.add_row(one.title, one.verdict or one.recorded, *figures, evidence)
    print_table(table)


def _print_end(found: "Verification", seconds: Mapping[str, float], out: Path) -> None:
    """The verdict, where the time went, and the path of the report."""
    for one in found.failing:
        print(f"fails: {one.title} ({one.file})")
    for problem in found.problems:
        print(problem)
    print(f"seconds: {', '.join(f'{name} {value:.0f}' for name, value in seconds.items())}")
    total = sum(seconds.values())
    word = "equal" if holds(found) else "different"
    judged = sum(one.verdict is not None for one in found.claims)
    print(f"verdict: {word} ({judged} claims judged again from the evidence, {total:.0f} seconds)")
    print(f"report: {out / 'report.html'}")
