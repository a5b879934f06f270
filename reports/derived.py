"""The claims of any evidence: those it recorded, and those that follow from what it recorded.

Every command records what it measured; not all say what that claims. Here they do, each claim with
its "measured" (`parity.claims`), so that a report and its verification say the same. A derived
claim whose schema does not say its rung has the id "RUNG/...", with a rung of `reports.ladder`.
"""

import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from maskformer.runs.run_settings import training_words
from parity.claims import claim
from parity.errors import InputError
from parity.schemas import AUDIT_ALL, EVALUATION, RECEIPT, TRAINING_RUNS
from reports.chapters.evaluation import of_evaluation
from reports.chapters.receipt import of_receipt
from reports.chapters.training_runs import of_training_runs
from reports.checks import EPSILON, ROUNDINGS, Claim
from reports.evidence import RUN, SIDES, Evidence, names
from reports.ladder import rung_of
from reports.run_pairs import compared, pairs_of_runs

KEYS = (
    "id",
    "title",
    "verdict",
    "value",
    "limit",
    "cases",
    "derivation",
    "evidence_sha256",
    "command",
)
"""What every claim has; of a claim that was not run, some are None."""


def all_claims(found: Sequence[Evidence]) -> list[Claim]:
    """The claims of a report on this evidence, in order, each with its `rung` and its `file`.

    Those of pairs of runs come last. Raises InputError for evidence that is not complete.
    """
    placed = [
        (one, next(iter(places.values()))) for one, places in zip(found, names(found), strict=True)
    ]
    claims = []
    for one, file in placed:
        try:
            for each in (*claims_of(one), *claims_of_run(one)):
                rung = rung_of(one.schema, each["id"])
                words = {name: each[name] for name in ("id", "title", "verdict", "command")}
                if one.schema == AUDIT_ALL:  # each architecture has the same claims
                    words["title"] += f" ({each['id'].partition('/')[0]})"
                claims.append({**dict.fromkeys(KEYS), **each, **words, "rung": rung, "file": file})
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise incomplete(one, error) from error
    files = {id(one): file for one, file in placed}
    for theirs, ours in pairs_of_runs([one for one in found if one.schema == RUN]):
        for each in claims_of_pair(theirs, ours):
            rung = rung_of(RUN, each["id"])
            claims.append({**each, "rung": rung, "file": files[id(ours)]})
    return claims


def incomplete(one: Evidence, error: Exception) -> InputError:
    """What to tell of evidence that lacks what its schema promises."""
    return InputError(
        f"{one.source} is not a complete {one.schema}",
        f"{type(error).__name__}: {error}",
        "record it again; a report is never made from a part of a result",
    )


def claims_of(one: Evidence) -> list[Claim]:
    """All claims of one piece of evidence. Raises KeyError, TypeError or ValueError where the
    evidence lacks what its schema promises."""
    derived = _BY_SCHEMA[one.schema](one.content) if one.schema in _BY_SCHEMA else []
    return [*one.content.get("claims", ()), *derived]


def claims_of_run(one: Evidence) -> list[Claim]:
    """That the scores which a run recorded last follow from the counts of its images."""
    if one.run is None or one.counts is None:
        return []
    recorded = {name: one.run.last(name) for name in one.counts.values()}
    pairs = {
        name: [None if recorded[name] is None else recorded[name], value]
        for name, value in one.counts.values().items()
        if not math.isnan(value)
    }
    return [
        claim(
            "metric_code/run",
            f"The scores that the run recorded follow from the counts of its images{_which(one)}",
            {"rule": "relative", "pairs": pairs, "limit": ROUNDINGS * EPSILON},
            f"largest relative gap; {ROUNDINGS} roundings of a float64 number",
            run_command(one.content),
        )
    ]


def _which(one: Evidence) -> str:
    """Tells a run from others: ` (PyTorch, seed 3)`."""
    seed = one.content["settings"].get("seed")
    return f" ({SIDES[one.content['side']]}{'' if seed is None else f', seed {seed}'})"


def _of_seed(one: Evidence) -> str:
    """Tells a pair of runs from others."""
    seed = one.content["settings"].get("seed")
    return "" if seed is None else f" (seed {seed})"


def claims_of_pair(theirs: Evidence, ours: Evidence) -> list[Claim]:
    """What a run of each side with the same settings shows: the same data, scores alike."""
    command = pair_command(theirs.content, ours.content)
    digests = [one.content["data_sha256"] for one in (theirs, ours)]
    different = [] if digests[0] is not None and digests[0] == digests[1] else digests
    found = [
        claim(
            "data/same",
            f"Both trainers read the same images and annotations{_of_seed(ours)}",
            {"rule": "none", "of": 2, "found": different},
            "sha256 over the examples that each side read",
            command,
        )
    ]
    scores = compared(theirs.counts, ours.counts)
    intervals = {name: one["difference"] for name, one in scores.items() if "difference" in one}
    if intervals:
        away = [name for name, one in intervals.items() if not one.low <= 0 <= one.high]
        found.append(
            claim(
                "metric_trained/scores",
                f"No score of the trained models differs beyond its 95 % interval{_of_seed(ours)}",
                {"rule": "none", "of": len(intervals), "found": away},
                "paired bootstrap over images, bias-corrected and accelerated; a score differs "
                "where the interval of port - reference leaves 0 out; it is about these two "
                "models, and says nothing of what another seed would give",
                command,
            )
        )
    return found


def run_command(content: Mapping[str, Any]) -> str:
    """The command that makes such a run again, as it was recorded, or from what was recorded."""
    if content.get("command"):
        return content["command"]
    if content["side"] == "imported":
        source = next(iter(content.get("source", {"metrics.json": ""})))
        config = content["settings"]["config"]
        return shlex.join(["parity", "import-run", source, "--config", config, "--out", "DIR"])
    return _training_command(content["settings"], content["side"])


def pair_command(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    """The command that trains both of a pair again; the reference reads the data set itself."""
    if theirs.get("command") and theirs["command"] == ours.get("command"):
        return theirs["command"]
    return _training_command(theirs["settings"], "both")


def _training_command(settings: Mapping[str, Any], side: str) -> str:
    return shlex.join([*training_words(settings, side), "--out", "DIR"])


_BY_SCHEMA: Mapping[str, Callable[[Mapping[str, Any]], list[Claim]]] = {
    RECEIPT: of_receipt,
    EVALUATION: of_evaluation,
    TRAINING_RUNS: of_training_runs,
}
