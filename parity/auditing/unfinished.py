"""What an audit has found so far, on disk, so that one that is ended leaves it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from parity.errors import InputError
from parity.localise import Localisation
from parity.reading import bounds
from parity.reading.content import read_json
from parity.records import plain, typed, write_json

FILE = "unfinished.json"
SCHEMA = "maskformer-replication/unfinished-audit/1"


@dataclass
class Unfinished:
    """An audit that is not done: each addition is written to `folder` at once.

    Args:
        folder: where the file is; None keeps nothing.
        command: measures it again.
        told: what was said before anything was measured: of weights, and of inputs.
        differing: keys of the tensors that differ in float64, None before that is known.
        places: the places at fault that were found, with their causes.
    """

    folder: Path | None
    command: str
    told: list[str] = field(default_factory=list)
    differing: list[str] | None = None
    places: list[Localisation] = field(default_factory=list)

    def tell(self, text: str) -> None:
        """Adds what is said."""
        self.told.append(text)
        self._write()

    def measured(self, differing: list[str]) -> None:
        """Adds which tensors differ."""
        self.differing = differing
        self._write()

    def found(self, place: Localisation) -> None:
        """Adds a place."""
        self.places.append(place)
        self._write()

    def end(self) -> None:
        """The whole result is written: what was found so far is in it."""
        if self.folder is not None:
            (self.folder / FILE).unlink(missing_ok=True)

    def _write(self) -> None:
        if self.folder is None:
            return
        parts = ("command", "told", "differing", "places")
        content: dict[str, Any] = {"schema": SCHEMA}
        content |= {name: plain(getattr(self, name)) for name in parts}
        write_json(content, self.folder, FILE)


def read_unfinished(folder: Path) -> Unfinished | None:
    """What an audit that was ended left in a folder; None where it left nothing.

    Raises InputError for a file that holds something else.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    content = read_json(path, bounds.RECORD_BYTES, "unfinished audit")
    try:
        if content.pop("schema") != SCHEMA:
            raise ValueError("another schema")
        return Unfinished(
            folder,
            str(content["command"]),
            [str(text) for text in content["told"]],
            content["differing"],
            list(typed(tuple[Localisation, ...], content["places"])),
        )
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} is no unfinished audit", f"{type(error).__name__}: {error}", "audit once more"
        ) from None
