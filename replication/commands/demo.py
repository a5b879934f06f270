"""`parity demo`: the whole story on one machine, from a checkpoint to a report that is verified."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
    from replication.story.beside import Beside
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
    found, clock = tell(out, scale=SHORT if small else FULL)
    result = described(found, clock, out)
    options.end(result, as_json, lambda: _print(found, clock, out), holds(found))


def tell(
    out: Path, stages: Sequence[Stage] = STAGES, scale: Scale = FULL
) -> "tuple[Verification, Clock]":
    """Runs the stages and writes the report into `out`; its verification, and where time went.

    Stages that may run beside the others do so in one process, from the first verdict on. What the
    stages made stays in `out/kept`, so that the report's commands can be run. Where a stage breaks
    off, those that ended stay there, and the same call goes on with the rest.
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
        left = [stage for stage in stages if stage.name not in done]

        def keep(found: Mapping[str, Finished]) -> None:
            done.update(found)
            clock.seconds.update({name: one.seconds for name, one in found.items()})
            if found:
                about.write(kept, done)

        try:
            _run(left, Story(kept, out, Steps(), scale), clock, keep)
        except BaseException:
            if done:
                told = f"{len(done)} of {len(stages)} stages are kept in {kept}"
                print(f"{told}; the same command goes on after them", file=sys.stderr)
            raise
        recorded = [kept / path for stage in stages for path in done[stage.name].recorded]
        write_report(load(recorded), out)
        about.forget(kept)
    clock.seconds = {stage.name: clock.seconds[stage.name] for stage in stages}
    return verify(out), clock


def _run(
    stages: Sequence[Stage],
    story: Story,
    clock: "Clock",
    keep: Callable[[Mapping[str, Finished]], None],
) -> None:
    """Runs the stages, those that may in one process beside the others; `keep` is told what ended.

    That process begins with the first verdict, or with the end of a stage.
    """
    from replication.process.threads import sharing_cores
    from replication.story.beside import told_beside

    apart = [one for one in stages if one.beside]
    with told_beside(apart, story.out, story.scale) as beside, contextlib.ExitStack() as shared:

        def begin() -> None:
            if clock.begin(beside):
                shared.enter_context(sharing_cores(2))

        def first(found: "AuditResult") -> None:
            _say(first_verdict(found, f", on the whole model, after {clock.now():.0f} seconds"))
            begin()

        try:
            for stage in stages:
                if stage.beside:
                    continue
                before = {path.name for path in story.kept.iterdir()}
                with clock(stage):
                    recorded = stage.run(replace(story, steps=Steps(stage.steps), first=first))
                seconds = clock.seconds[stage.name]
                keep({stage.name: Finished.of(seconds, story.kept, before, recorded)})
                begin()
                keep(beside.collect(story.kept))
                beside.check()
                if not beside.runs():
                    shared.close()
            clock.wait(beside)
        finally:
            keep(beside.collect(story.kept))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@dataclass
class Clock:
    """Announces stages with the time that is left, and keeps their seconds."""

    stages: Sequence[Stage]
    scale: Scale
    seconds: dict[str, float] = field(default_factory=dict)
    _created: float = field(default_factory=time.perf_counter)

    @contextlib.contextmanager
    def __call__(self, stage: Stage) -> Iterator[None]:
        """Runs one stage."""
        self._announce([stage], self._left())
        begun = time.perf_counter()
        yield
        self.seconds[stage.name] = round(time.perf_counter() - begun, 1)

    def begin(self, beside: "Beside") -> bool:
        """Starts and announces the stages beside, where there are any and they have not begun;
        whether they begin now."""
        begins = beside.start()
        if begins:
            self._announce(beside.stages, "beside the others")
        return begins

    def wait(self, beside: "Beside") -> None:
        """Waits for the stages beside, where they have not ended."""
        self.begin(beside)
        if beside.runs():
            left = [one for one in beside.stages if one.name not in self.seconds]
            self._announce(left, f"waited for, {self._left()}")
        beside.wait()

    def _left(self) -> str:
        return f"about {max(1, round(self.left() / 60))} min left"

    def _announce(self, stages: Sequence[Stage], how: str) -> None:
        for stage in stages:
            number = list(self.stages).index(stage) + 1
            _say(f"{number} of {len(self.stages)}: {stage.title.format(**vars(self.scale))}; {how}")

    def now(self) -> float:
        """Seconds since the demo began, or went on."""
        return time.perf_counter() - self._created

    def left(self) -> float:
        """Seconds that are left: what is expected of the rest, at the pace so far."""
        expected = {one.name: one.seconds(self.scale) for one in self.stages}
        known = sum(expected[name] for name in self.seconds)
        pace = sum(self.seconds.values()) / known if known else 1.0
        left = [one for one in self.stages if one.name not in self.seconds]
        lanes = [[one for one in left if one.beside == beside] for beside in (False, True)]
        return pace * max(sum(expected[one.name] for one in lane) for lane in lanes)


def holds(found: "Verification") -> bool:
    """Whether the report is what its evidence says, and no claim of it fails."""
    return not (found.problems or found.failing)


def described(found: "Verification", clock: Clock, out: Path) -> dict[str, Any]:
    """The demo as one JSON object (`SCHEMA`)."""
    return {
        "schema": SCHEMA,
        "verdict": "equal" if holds(found) else "different",
        "report": str(out / "report.html"),
        "claims": len(found.claims),
        "failing": [{"file": one.file, "id": one.id} for one in found.failing],
        "problems": [str(one) for one in found.problems],
        "seconds": dict(clock.seconds),
        "total_seconds": round(clock.now(), 1),
    }


def _print(found: "Verification", clock: Clock, out: Path) -> None:
    _print_claims(found)
    _print_end(found, clock, out)


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


def _print_end(found: "Verification", clock: Clock, out: Path) -> None:
    """The verdict, where the time went, and the path of the report."""
    for one in found.failing:
        print(f"fails: {one.title} ({one.file})")
    for problem in found.problems:
        print(problem)
    print(f"seconds: {', '.join(f'{name} {value:.0f}' for name, value in clock.seconds.items())}")
    word = "equal" if holds(found) else "different"
    judged = sum(one.verdict is not None for one in found.claims)
    how = f"{judged} claims judged again from the evidence, {clock.now():.0f} seconds"
    print(f"verdict: {word} ({how})")
    print(f"report: {out / 'report.html'}")
