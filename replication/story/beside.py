"""Stages of a story that need nothing of the others, told in one process beside it.

    python -m replication.story.beside

runs the stages that standard input names, and prints a line of JSON for each that ends.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from parity.orphans import end_with_parent
from parity.records import parts, typed
from parity.steps import Steps
from replication.console.progress import without_notes
from replication.process.refusals import check_status, status_of
from replication.process.threads import shared_cores
from replication.story.progress import Finished
from replication.story.stages import STAGES, Scale, Stage, Story


class Beside:
    """The process that tells `stages`, which are of `STAGES`; see `told_beside`.

    It works in `folder`, from which `collect` takes what is finished.
    """

    def __init__(self, stages: Sequence[Stage], out: Path, scale: Scale, folder: Path) -> None:
        self.stages = stages
        names = [one.name for one in stages]
        self._kept, self._said, self._errors = (folder / it for it in ("kept", "said", "errors"))
        self._kept.mkdir()
        told = {"names": names, "out": str(out), "scale": asdict(scale), "kept": str(self._kept)}
        self._told = json.dumps(told)
        self._child: subprocess.Popen | None = None
        self._taken: set[str] = set()

    def runs(self) -> bool:
        """Whether the process is at work."""
        return self._child is not None and self._child.poll() is None

    def start(self) -> bool:
        """Starts the process, where it has stages and has not begun; whether it does so now."""
        if self._child is not None or not self.stages:
            return False
        with self._said.open("w") as said, self._errors.open("w") as errors:
            self._child = subprocess.Popen(
                [sys.executable, "-m", __name__],
                stdin=subprocess.PIPE,
                stdout=said,
                stderr=errors,
                env=shared_cores(2),
                encoding="utf-8",
                start_new_session=True,  # Ctrl-C is this process's, which ends it
            )
        self._child.stdin.write(self._told)
        self._child.stdin.close()
        return True

    def collect(self, kept: Path) -> dict[str, Finished]:
        """The stages that ended since the last call; what they made is in `kept` now."""
        if self._child is None:
            return {}
        found = {}
        for line in self._said.read_text(encoding="utf-8").splitlines(True):
            if not (line.startswith("{") and line.endswith("\n")):
                continue
            told = json.loads(line)
            if told["name"] not in self._taken:
                found[told["name"]] = typed(Finished, told["finished"])
        for one in found.values():
            for name in one.entries:
                shutil.move(self._kept / name, kept / name)
        self._taken |= set(found)
        return found

    def wait(self) -> None:
        """Waits until the process has ended, where it has begun; raises as `check`."""
        if self._child is not None:
            self._child.wait()
            self.check()

    def check(self) -> None:
        """Raises InputError where a stage did, and RuntimeError where the process failed."""
        code = None if self._child is None else self._child.poll()
        if not code:
            return
        said = self._errors.read_text(encoding="utf-8", errors="replace")
        check_status(code, said.splitlines(), "a process beside")

    def end(self) -> None:
        """Ends the process, where it is at work."""
        if self.runs():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._child.pid, signal.SIGKILL)
            self._child.wait()


@contextlib.contextmanager
def told_beside(stages: Sequence[Stage], out: Path, scale: Scale) -> Iterator[Beside]:
    """The process of these stages, to be started within the context, which ends it."""
    with tempfile.TemporaryDirectory(prefix="demo-") as folder:
        beside = Beside(stages, out, scale, Path(folder))
        try:
            yield beside
        finally:
            beside.end()


def tell(names: Sequence[str], story: Mapping[str, object]) -> None:
    """Runs the stages of these names, and prints what each made."""
    kept = Path(story["kept"])
    scale = Scale(**{**story["scale"], "executions": tuple(story["scale"]["executions"])})
    for stage in STAGES:
        if stage.name not in names:
            continue
        begun, before = time.perf_counter(), {path.name for path in kept.iterdir()}
        recorded = stage.run(Story(kept, Path(story["out"]), Steps(), scale))
        seconds = round(time.perf_counter() - begun, 1)
        finished = Finished.of(seconds, kept, before, recorded)
        print(json.dumps({"name": stage.name, "finished": parts(finished)}), flush=True)


def main() -> int:
    """Tells what standard input names; 2 where a stage raises InputError."""
    end_with_parent()
    without_notes()
    story = json.load(sys.stdin)
    return status_of(lambda: tell(story.pop("names"), story))


if __name__ == "__main__":
    sys.exit(main())
