"""Finds recorded results in files and folders, and reads them."""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from maskformer.metrics.run_scores import COUNTS, read_counts
from maskformer.runs.run_record import DESCRIPTION, METRICS, read_run
from maskformer.runs.run_record import SCHEMA as RUN
from parity.errors import InputError
from parity.schemas import EVALUATION, RECEIPT
from reports.drawing.pictures import MOST, jpeg_name, kept
from reports.evidence import EVALUATED, Evidence, json_bytes
from reports.kinds import KINDS

_SCHEMA_FIRST = re.compile(rb'\s*\{\s*"schema":\s*"([^"]*)"')


_RECEIPT_FIRST = re.compile(rb'\s*\{\s*"format":\s*1,\s*"code":\s*\{')


_NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def of_result(result: Mapping[str, Any]) -> Evidence:
    """A result that was just made, as if it had been read from its file."""
    return _of_bytes(json_bytes(result), "the result")


def load(paths: Sequence[Path]) -> tuple[Evidence, ...]:
    """The evidence in files and folders, in the order of `KINDS`, then as given; copies once.

    A folder is searched with all below it; files in it that are no recorded result are passed over.
    Of copies, one that has its pictures is taken.
    Raises InputError for a path that is missing, unknown, broken or without any evidence.
    """
    found: dict[str, Evidence] = {}
    for path in paths:
        below = {}
        for one in _search(path):
            known = below.get(one.digest)
            if known is None or len(one.files) > len(known.files):
                below[one.digest] = one
        if not below:
            raise InputError(
                f"{path} holds no recorded result",
                f"searched for: {', '.join(KINDS.values())}",
                "give the JSON that a command wrote with --out or --json, or the folder of a run",
            )
        found |= {key: one for key, one in below.items() if key not in found}
    order = list(KINDS)
    return tuple(sorted(found.values(), key=lambda one: order.index(one.schema)))


def _search(path: Path) -> Iterator[Evidence]:
    if path.is_dir():
        if (path / DESCRIPTION).is_file():
            yield _of_run(path)
        for file in sorted(path.rglob("*.json")):
            if file.name == DESCRIPTION and file.parent != path:
                yield _of_run(file.parent)
            elif file.name != DESCRIPTION and _may_be_result(file):
                yield _of_file(file)
    elif path.name in (DESCRIPTION, METRICS):
        yield _of_run(path.parent)
    else:
        yield _of_file(path)


def _may_be_result(file: Path) -> bool:
    """Whether a file found in a folder is a recorded result; others may lie beside it."""
    with file.open("rb") as stream:
        start = stream.read(4096)
    schema = _SCHEMA_FIRST.match(start)
    if schema is None:
        return _RECEIPT_FIRST.match(start) is not None
    return schema.group(1).decode(errors="replace") in KINDS


def _of_file(file: Path) -> Evidence:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise InputError(
            f"{file} cannot be read",
            f"{type(error).__name__}: {error.strerror or error}",
            "give a recorded result, or a folder that has some",
        ) from None
    return _with_pictures(_of_bytes(content, str(file)), file.parent)


def _with_pictures(found: Evidence, folder: Path) -> Evidence:
    """An evaluation with the pictures that it names, where they lie in `folder`."""
    if found.schema != EVALUATION:
        return found
    pictures: dict[str, bytes] = {}
    for name in [str(one) for one in found.content.get("pictures", ())][:MOST]:
        for present in (name, jpeg_name(name)):
            if ".." not in Path(present).parts and (folder / present).is_file():
                try:
                    place, content = kept(present, (folder / present).read_bytes())
                except ValueError as error:
                    raise InputError(
                        f"{folder / present} cannot be shown",
                        str(error),
                        "remove it, or evaluate again",
                    ) from None
                pictures[place] = content
                break
    if not pictures:
        return found
    return replace(found, files={EVALUATED: found.files[""], **pictures})


def _of_bytes(content: bytes, source: str) -> Evidence:
    try:
        value = json.loads(content)
    except ValueError as error:
        raise InputError(
            f"{source} is not a complete JSON file",
            f"{type(error).__name__}: {error}",
            "record the result again",
        ) from None
    schema = value.get("schema") if isinstance(value, dict) else None
    if isinstance(value, dict) and value.get("format") == 1 and {"tensors", "target"} <= set(value):
        schema = RECEIPT
    if schema not in KINDS or schema == RUN:
        raise InputError(
            f"{source} has the schema {schema!r}, which no report knows",
            f"known: {', '.join(KINDS)}",
            "record the result again with this version, or report it with the version that made it",
        )
    return Evidence(schema, {"": content}, _revived(value), source)


def _of_run(folder: Path) -> Evidence:
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
    return Evidence(RUN, files, run.description, str(folder), run, counts)


def _revived(value: Any) -> Any:
    """The value with the texts that `strict` writes as the numbers they stand for."""
    if isinstance(value, Mapping):
        return {name: _revived(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_revived(item) for item in value]
    return _NOT_FINITE.get(value, value) if isinstance(value, str) else value
