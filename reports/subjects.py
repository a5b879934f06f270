"""What a recorded result is about: by this it is told from others, and found again later.

A subject holds what was asked and what it was asked of: configuration, inputs, weights, seeds,
executions. It holds nothing that is measured, no version, no time and no folder. The content of a
file or a folder is in it where its hash was recorded, its name where not.
"""

import hashlib
import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from parity.schemas import (
    AUDIT,
    AUDIT_ALL,
    CLEAN_AUDITS,
    EVALUATION,
    FAULT_SCORE,
    PREFLIGHT,
    RECEIPT,
    SUITE,
    TRAINING_RUNS,
    TRAINING_SEEDS,
    TRAINING_STEP,
    TRAJECTORY,
)
from reports.document import describe
from reports.evidence import RUN, Evidence

Content = Mapping[str, Any]
Subject = dict[str, Any]

LONGEST = 48  # characters of a fact that are shown
MOST = 3  # parts of a list that are shown
NOT_RECORDED = "not recorded"
WEIGHTS = ("config_sha256", "weights_sha256", "port_weights_sha256", "reference", "only")
HASHED = ("data", "initial")
"""Settings of a run that are paths; the record has the hashes of what lies there."""
WRITTEN = ("keep", "checkpoint_every")
"""Settings of a run that say what is kept beside its record."""


def subject(one: Evidence) -> Subject:
    """The facts of a result, by name, equal in two recordings of the same thing.

    What was not recorded is left out. Raises KeyError or TypeError for a result that lacks what its
    schema promises.
    """
    facts = {"config": one.config, **SUBJECTS[one.schema](one.content)}
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


def _audit(content: Content) -> Subject:
    claims = [one["id"] for one in content["claims"]]
    return {
        "title": content.get("title"),
        **_picked(content["provenance"], WEIGHTS),
        "inputs": _files(content["inputs"]),
        "executions": sorted(content["float32"]),
        "isolated": "isolated_function" in claims,
        "training": any(one.startswith("train_") for one in claims),
    }


def _audit_all(content: Content) -> Subject:
    rows = content["architectures"]
    return {
        **_picked(content, ("size", "weights")),
        "architectures": [
            {"config": row["config"], **_picked(row.get("provenance", {}), WEIGHTS)} for row in rows
        ],
    }


def _training_step(content: Content) -> Subject:
    claims = [one["id"] for one in content["claims"]]
    return {
        "size": content["size"],
        **_picked(content["provenance"], WEIGHTS),
        "isolated": "train_gradients_isolated" in claims,
    }


def _trajectory(content: Content) -> Subject:
    asked = ("dtype", "base_lr", "batch", "size", "execution")
    return {
        **_picked(content, asked),
        "steps": len(content["steps"]),
        **_picked(content["provenance"], WEIGHTS),
    }


def _evaluation(content: Content) -> Subject:
    asked = ("layout", "split", "images", "test_size", "augmented")
    return {
        "sides": sorted(content["sides"]),
        **_picked(content, (*WEIGHTS, *asked)),
        "data": PurePath(content["data"]).name,
    }


def _run(content: Content) -> Subject:
    settings = content["settings"]
    asked = [name for name in settings if name not in (*HASHED, *WRITTEN, "config")]
    recorded = ("model_sha256", "data_sha256", "checkpoint_sha256", "replicas")
    return {"side": content["side"], **_picked(settings, asked), **_picked(content, recorded)}


def _training_runs(content: Content) -> Subject:
    return {
        "steps": content["steps"],
        "sides": sorted(content["sides"]),
        "settings": _words(content.get("command")),
    }


def _training_seeds(content: Content) -> Subject:
    first = next(iter(content["seeds"].values()))
    return {**_training_runs(first), "seeds": list(content["seeds"]), "margin": content["margin"]}


def _preflight(content: Content) -> Subject:
    asked = ("precision", "image_size", "per_core_batch", "replicas", "targets", "effort")
    rows = content["topologies"]
    return {**_picked(content, asked), "topologies": [row["topology"] for row in rows]}


def _fault_score(content: Content) -> Subject:
    return {"size": content["size"], "faults": [one["id"] for one in content["outcomes"]]}


def _clean_audits(content: Content) -> Subject:
    return {"cases": [one["case"] for one in content["outcomes"]]}


def _suite(content: Content) -> Subject:
    return {"title": content["title"]}


def _receipt(content: Content) -> Subject:
    source = content["source"]
    return {
        "config_sha256": content["config"]["digest"],
        "source": [source["kind"], *_files(source["files"])],
        "target": content["target"]["kind"],
        **content["options"],
    }


SUBJECTS: Mapping[str, Callable[[Content], Subject]] = {
    AUDIT: _audit,
    AUDIT_ALL: _audit_all,
    TRAINING_STEP: _training_step,
    TRAJECTORY: _trajectory,
    EVALUATION: _evaluation,
    RUN: _run,
    TRAINING_RUNS: _training_runs,
    TRAINING_SEEDS: _training_seeds,
    PREFLIGHT: _preflight,
    FAULT_SCORE: _fault_score,
    CLEAN_AUDITS: _clean_audits,
    SUITE: _suite,
    RECEIPT: _receipt,
}
"""What tells results of a kind apart, beside the configuration."""


def _picked(content: Content, names: Sequence[str]) -> Subject:
    return {name: content[name] for name in names if content.get(name) is not None}


def _files(files: Sequence[Content]) -> list[str]:
    return [f"{one['name']} {describe(one['size'])} {one['sha256'][:16]}" for one in files]


def _words(command: str | None) -> list[str] | None:
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
