"""What of a demo is finished, kept beside it so that an interrupted one goes on."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from parity.errors import InputError
from parity.provenance import git_state
from parity.reading import bounds
from parity.reading.content import read_json
from parity.records import parts, typed, write_json
from replication.story.stages import Scale, Stage

FILE = "stages.json"
SCHEMA = "maskformer-replication/demo-stages/1"


@dataclass(frozen=True)
class Finished:
    """A stage that ended: its seconds, the entries it made in the folder, and what it recorded.

    `recorded` are paths below the folder, of files and folders that the report is made of.
    """

    seconds: float
    entries: tuple[str, ...]
    recorded: tuple[str, ...]

    @classmethod
    def of(
        cls, seconds: float, folder: Path, before: Collection[str], recorded: Sequence[Path]
    ) -> "Finished":
        """A stage that has just ended, in a folder that had the entries `before`."""
        made = sorted(path.name for path in folder.iterdir() if path.name not in before)
        return cls(seconds, tuple(made), tuple(str(one.relative_to(folder)) for one in recorded))


@dataclass(frozen=True)
class Progress:
    """Which story is told, by which code: stages of another one are not gone on with."""

    about: str

    def read(self, folder: Path) -> dict[str, Finished]:
        """The finished stages of this story in the folder, by name; none of another story."""
        try:
            content = read_json(folder / FILE, bounds.RECORD_BYTES, "progress of a demo")
            if content["schema"] != SCHEMA or content["about"] != self.about:
                return {}
            found = {name: typed(Finished, one) for name, one in content["stages"].items()}
        except (InputError, OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}
        entries = [folder / name for one in found.values() for name in one.entries]
        return found if all(path.exists() for path in entries) else {}

    def write(self, folder: Path, stages: Mapping[str, Finished]) -> None:
        """Keeps what is finished."""
        told = {name: parts(one) for name, one in stages.items()}
        write_json({"schema": SCHEMA, "about": self.about, "stages": told}, folder, FILE)

    def finished(self, folder: Path) -> Collection[str]:
        """The entries of the folder that finished stages made, and the file that says so."""
        stages = self.read(folder)
        made = {name for one in stages.values() for name in one.entries}
        return made | {FILE} if stages else made

    def forget(self, folder: Path) -> None:
        """Ends the story: a later one begins anew."""
        (folder / FILE).unlink(missing_ok=True)


def story_of(stages: Sequence[Stage], scale: Scale) -> Progress:
    """The progress of these stages at this scale, by the code at its present commit."""
    named = {"stages": [one.name for one in stages], **asdict(scale)}
    return Progress(json.dumps({**named, **git_state(Path(__file__).parent)}, sort_keys=True))
