"""What a recorded result is about: by this it is told from others, and found again later.

A subject holds what was asked and what it was asked of: configuration, inputs, weights, seeds,
executions. It holds nothing that is measured, no version, no time and no folder. The content of a
file or a folder is in it where its hash was recorded, its name where not.
"""

import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from parity.records import plain
from reports.document import describe
from reports.evidence import Evidence

Subject = dict[str, Any]

LONGEST = 48  # characters of a fact that are shown
MOST = 3  # parts of a list that are shown
NOT_RECORDED = "not recorded"
WEIGHTS = ("config_sha256", "weights_sha256", "port_weights_sha256", "reference", "only")


def subject(one: Evidence) -> Subject:
    """The facts of a result, by name, equal in two recordings of the same thing.

    What was not recorded is left out.
    """
    facts = {"config": one.config, **one.kind.subject(one.result)}
    return {name: fact for name, fact in facts.items() if fact is not None}


def differing(subjects: Sequence[Subject]) -> list[str]:
    """The names of the facts in which not all agree, in order."""
    known = dict.fromkeys(name for one in subjects for name in one)
    return [
        name for name in known if any(one.get(name) != subjects[0].get(name) for one in subjects)
    ]


def difference(one: Subject, other: Subject) -> str:
    """In what two subjects differ: `seed (0, 1), steps (12, 30)`."""
    found = []
    for name in differing((one, other)):
        facts = one.get(name, NOT_RECORDED), other.get(name, NOT_RECORDED)
        if all(isinstance(fact, list) for fact in facts):
            facts = [[x for x in facts[i] if x not in facts[1 - i]] or "none more" for i in (0, 1)]
        found.append(f"{name} ({', '.join(map(shown, facts))})")
    return ", ".join(found)


def shown(fact: Any) -> str:
    """A fact in a few words; a long one by its beginning and its digest."""
    if isinstance(fact, list):
        more = [f"and {len(fact) - MOST} more"] if len(fact) > MOST else []
        return " ".join([*map(shown, fact[:MOST]), *more])
    text = fact if isinstance(fact, str) else json.dumps(fact, sort_keys=True)
    if len(text) <= LONGEST:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()
    return text[:12] if len(text) == len(digest) else f"{text[:LONGEST]}... [{digest[:8]}]"


def picked(holder: Any, names: Sequence[str]) -> Subject:
    """What a mapping or a result has under these names, as JSON has it, but for what is None."""
    found = holder if isinstance(holder, Mapping) else vars(holder)
    return {name: plain(found[name]) for name in names if found.get(name) is not None}


def files(files: Sequence[Any]) -> list[str]:
    """Name, size and the beginning of the hash of each file."""
    return [f"{one.name} {describe(one.size)} {one.sha256[:16]}" for one in files]


def command_words(command: str | None) -> list[str] | None:
    """The words of a command that trains, but for what says where and on how many threads."""
    if command is None:
        return None
    words, kept = iter(shlex.split(command)), []
    for word in words:
        if word in ("--out", "--threads"):
            next(words, None)
        else:
            kept.append(PurePath(word).name or word)
    return kept
