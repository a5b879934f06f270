"""Finds recorded results in files and folders, and reads them."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from maskformer.metrics.run_scores import COUNTS, read_counts
from maskformer.runs.run_record import DESCRIPTION, METRICS, read_run
from maskformer.runs.run_record import SCHEMA as RUN
from parity.errors import InputError
from parity.reading.content import parse_json
from parity.records import plain
from parity.results import Result, written_as
from reports.drawing.pictures import MOST, jpeg_name, kept
from reports.evidence import Evidence, json_bytes
from reports.kind import Kind, Unnamed
from reports.kinds import KINDS, kind_of

Kinds = Mapping[str, Kind]

_SCHEMA_FIRST = re.compile(rb'\s*\{\s*"schema":\s*"([^"]*)"')


def of_result(result: Result | Mapping[str, Any], kinds: Kinds = KINDS) -> Evidence:
    """A result that was just made, as if it had been read from its file."""
    return _of_bytes(json_bytes(plain(result)), "the result", kinds)


def load(paths: Sequence[Path], kinds: Kinds = KINDS) -> tuple[Evidence, ...]:
    """The evidence in files and folders, in the order of `kinds`, then as given; copies once.

    A folder is searched with all below it; files in it that are no recorded result are passed over.
    Of copies, one that has its pictures is taken.
    Raises InputError for a path that is missing, unknown, broken or without any evidence.
    """
    found: dict[str, Evidence] = {}
    for path in paths:
        below = {}
        for one in _search(path, kinds):
            known = below.get(one.digest)
            if known is None or len(one.files) > len(known.files):
                below[one.digest] = one
        if not below:
            raise InputError(
                f"{path} holds no recorded result",
                f"searched for: {', '.join(kind.name for kind in kinds.values())}",
                "give the JSON that a command wrote with --out or --json, or the folder of a run",
            )
        found |= {key: one for key, one in below.items() if key not in found}
    order = list(kinds)
    return tuple(sorted(found.values(), key=lambda one: order.index(one.kind.schema)))


def _search(path: Path, kinds: Kinds) -> Iterator[Evidence]:
    if path.is_dir():
        if (path / DESCRIPTION).is_file():
            yield _of_run(path, kinds)
        for file in sorted(path.rglob("*.json")):
            if file.is_symlink():
                own_file(path, file.relative_to(path).as_posix())
            if file.name == DESCRIPTION and file.parent != path:
                yield _of_run(file.parent, kinds)
            elif file.name != DESCRIPTION and _may_be_result(file, kinds):
                yield _of_file(file, kinds)
    elif path.name in (DESCRIPTION, METRICS):
        yield _of_run(path.parent, kinds)
    else:
        yield _of_file(path, kinds)


def own_file(folder: Path, name: str) -> Path | None:
    """The file of that name in or below `folder`; None where there is none.

    Raises InputError for a name that leads elsewhere: an absolute path, `..`, a link.
    """
    parts = PurePosixPath(name).parts
    path, way = folder, "an absolute path" if name.startswith("/") else ""
    if ".." in parts or "\0" in name or "\\" in name:
        way = "a path to somewhere else"
    for part in () if way else parts:
        path = path / part
        if path.is_symlink():
            way = "a link, which is not followed"
    if way:
        raise InputError(
            f"{folder} names a file outside of it",
            f"{name!r} is {way}",
            "copy the file into the folder, and name it from there",
        )
    return path if path.is_file() else None


def _may_be_result(file: Path, kinds: Kinds) -> bool:
    """Whether a file found in a folder is a recorded result; others may lie beside it."""
    with file.open("rb") as stream:
        start = stream.read(4096)
    schema = _SCHEMA_FIRST.match(start)
    if schema is None:
        return any(one.beginning.match(start) for one in _unnamed(kinds))
    name = schema.group(1).decode(errors="replace")
    return any(written_as(name, current) for current in kinds)


def _unnamed(kinds: Kinds) -> dict[Unnamed, Kind]:
    """The kinds whose files name no schema, by how these are known."""
    found = {kind.special.unnamed: kind for kind in kinds.values()}
    return {known: kind for known, kind in found.items() if known is not None}


def _of_file(file: Path, kinds: Kinds) -> Evidence:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise InputError(
            f"{file} cannot be read",
            f"{type(error).__name__}: {error.strerror or error}",
            "give a recorded result, or a folder that has some",
        ) from None
    return _with_pictures(_of_bytes(content, str(file), kinds), file.parent)


def _with_pictures(found: Evidence, folder: Path) -> Evidence:
    """A result with the pictures that it names, where they lie in `folder`.

    Raises InputError for a name that leads out of the folder.
    """
    if not found.kind.special.pictures:
        return found
    pictures: dict[str, bytes] = {}
    for name in [str(one) for one in found.result.pictures][:MOST]:
        for present in (name, jpeg_name(name)):
            file = own_file(folder, present)
            if file is not None:
                try:
                    place, content = kept(present, file.read_bytes())
                except ValueError as error:
                    raise InputError(
                        f"{file} cannot be shown",
                        str(error),
                        "remove it, or evaluate again",
                    ) from None
                pictures[place] = content
                break
    if not pictures:
        return found
    return replace(found, files={f"{found.kind.name}.json": found.files[""], **pictures})


def _of_bytes(content: bytes, source: str, kinds: Kinds) -> Evidence:
    value = parse_json(content, source)
    kind = None
    schema = None
    if isinstance(value, dict):
        schema = value.get("schema")
        kind = next((one for known, one in _unnamed(kinds).items() if known.holds(value)), None)
    if kind is None:
        of_files = {name: one for name, one in kinds.items() if not one.special.folder}
        kind = kind_of(schema, source, of_files)
    recorded = {"schema": kind.schema, **value}
    result = kind.result.from_json(recorded, source)
    return Evidence(kind, {"": content}, result, source, recorded["schema"])


def _of_run(folder: Path, kinds: Kinds) -> Evidence:
    for name in (DESCRIPTION, METRICS, COUNTS):
        own_file(folder, name)
    run = read_run(folder)
    files = {name: (folder / name).read_bytes() for name in (DESCRIPTION, METRICS)}
    counts = None
    if (folder / COUNTS).is_file():
        files[COUNTS] = (folder / COUNTS).read_bytes()
        counts = read_counts(folder / COUNTS)
    if not run.rows:
        raise InputError(
            f"{folder} has no rows yet",
            f"{METRICS} is empty",
            "wait for the run's first row, or leave it out",
        )
    kind = kinds[RUN]
    result = kind.result.from_json(run.description, str(folder / DESCRIPTION))
    return Evidence(kind, files, result, str(folder), RUN, run, counts)
