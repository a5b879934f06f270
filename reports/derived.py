"""The claims of any evidence: those it recorded, and those that follow from what it recorded.

Every command records what it measured; not all say what that claims. Here they do, each claim with
its "measured" (`parity.claims`), so that a report and its verification say the same. A derived
claim whose schema does not say its rung has the id "RUNG/...", with a rung of `reports.ladder`.
"""

import itertools
import math
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from maskformer import statistics, zoo
from maskformer.errors import InputError
from maskformer.run_scores import ImageCounts
from maskformer.run_settings import training_words
from parity.claims import claim
from reports.evidence import (
    AUDIT_ALL,
    EVALUATION,
    RECEIPT,
    RUN,
    SIDES,
    TRAINING_RUNS,
    Evidence,
    names,
)
from reports.ladder import rung_of

Claim = dict[str, Any]
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

EPSILON = 2.0**-52
ROUNDINGS = 2048  # of a mean over some hundred classes, each a quotient of sums; generous
SAME_RUN = ("config", "steps", "batch", "seed", "capacity", "normalisation", "solver", "dtype")
"""Settings in which two runs agree that are compared as a pair."""


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


def pairs_of_runs(runs: Sequence[Evidence]) -> list[tuple[Evidence, Evidence]]:
    """(reference, port) of every two runs, one of each side, with the same settings."""
    return [
        (theirs, ours)
        for theirs, ours in itertools.product(runs, runs)
        if (theirs.content["side"], ours.content["side"]) == ("torch", "tf")
        and all(
            theirs.content["settings"].get(name) == ours.content["settings"].get(name)
            for name in SAME_RUN
        )
    ]


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


def compared(
    theirs: ImageCounts | None, ours: ImageCounts | None, margin: float = 0.001
) -> dict[str, dict[str, Any]]:
    """By score: `difference` (an interval of ours - theirs), its `p_value`, and `equivalence`.

    In 0..1, over the images of both runs' last evaluations. A score that cannot be compared has a
    `reason` instead; without counts, or of other images, there is none.
    """
    if theirs is None or ours is None or theirs.names != ours.names:
        return {}
    found: dict[str, dict[str, Any]] = {}
    for name in ours.values():
        try:
            samples = ours.samples()[name], theirs.samples()[name]
            if samples[0].value == samples[1].value == 0:
                found[name] = {"reason": "both score 0, which says nothing"}
                continue
            one = statistics.compare(*samples)
            shown = statistics.judge_equivalence(*samples, margin=margin)
            found[name] = {
                "difference": one.interval,
                "p_value": one.p_value,
                "equivalence": shown,
            }
        except (InputError, KeyError) as error:
            found[name] = {"reason": str(error).splitlines()[0]}
    return found


def run_command(content: Mapping[str, Any]) -> str:
    """The command that makes such a run again, as it was recorded, or from what was recorded."""
    if content.get("command"):
        return content["command"]
    if content["side"] == "imported":
        source = next(iter(content.get("source", {"metrics.json": ""})))
        config = content["settings"]["config"]
        return shlex.join(
            ["parity", "import-run", source, *zoo.config_words(config), "--out", "DIR"]
        )
    return _training_command(content["settings"], content["side"])


def pair_command(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    """The command that trains both of a pair again; the reference reads the data set itself."""
    if theirs.get("command") and theirs["command"] == ours.get("command"):
        return theirs["command"]
    return _training_command(theirs["settings"], "both")


def _training_command(settings: Mapping[str, Any], side: str) -> str:
    return shlex.join([*training_words(settings, side), "--out", "DIR"])


def _of_receipt(content: Mapping[str, Any]) -> list[Claim]:
    """That every tensor of a conversion has a source, and that copied ones kept their bits."""
    tensors = content["tensors"]
    unsourced = [one["name"] for one in tensors if not (one["sources"] and one["targets"])]
    changed = [one["name"] for one in tensors if _copied(one) and not _same_bits(one)]
    path = content["target"]["path"]
    name = "receipt.json" if path == "." else f"{path}.receipt.json"
    command = shlex.join(["parity", "convert", "--verify", f"DIR/{name}"])
    return [
        claim(
            "weights/receipt",
            "Every tensor of the converted checkpoint comes from a tensor of its source",
            {"rule": "none", "of": len(tensors), "found": unsourced},
            "as the receipt records it, which names the source, the rule and the sha256 of every "
            "tensor; the command reads both files again",
            command,
        ),
        claim(
            "weights/bits",
            "Every tensor that is copied without a change of layout kept its bits",
            {"rule": "none", "of": sum(map(_copied, tensors)), "found": changed},
            "sha256 of the tensor before and after, as the receipt records them",
            command,
        ),
    ]


def _copied(one: Mapping[str, Any]) -> bool:
    kept = one["rule"] == "same" and len(one["sources"]) == 1
    return kept and all(
        out["rule"] == "same" and out["dtype"] == one["sources"][0]["dtype"]
        for out in one["targets"]
    )


def _same_bits(one: Mapping[str, Any]) -> bool:
    return all(out["sha256"] == one["sources"][0]["sha256"] for out in one["targets"])


def _of_evaluation(content: Mapping[str, Any]) -> list[Claim]:
    command = content["command"]
    found = [
        claim(
            f"metric_code/{name}",
            f"Group scores of {SIDES.get(name, name)} are the means of their classes', and PQ is "
            "SQ x RQ",
            {"rule": "relative", "pairs": pairs, "limit": ROUNDINGS * EPSILON},
            f"largest relative gap; {ROUNDINGS} roundings of a float64 number",
            command,
        )
        for name, side in content["sides"].items()
        if (pairs := _recomputed(side))
    ]
    comparison = content.get("comparison")
    if comparison is None:
        return found
    found.append(
        claim(
            "inference/pixels",
            f"Both sides predict the same for {content['images']:,} images",
            {
                "rule": "none",
                "of": content["images"],
                "found": [
                    row["image"] for row in comparison["disagreements"] if row["unexplained"]
                ],
            },
            "images with a pixel that differs although the reference's margin there is more than "
            "float32 rounding explains",
            command,
        )
    )
    if not content["weights"].startswith("seeded:"):
        found += _equivalences(content)
    return found


def _recomputed(side: Mapping[str, Any]) -> dict[str, list[float | None]]:
    """(recorded, recomputed) of each score that follows from the classes' scores."""
    rows = side["per_class"]
    pairs = {}
    for group, members in (("All", (True, False)), ("Things", (True,)), ("Stuff", (False,))):
        recorded = side.get("panoptic", {}).get(group)
        if recorded is None:
            continue
        for key in ("pq", "sq", "rq"):
            values = [
                row[key] for row in rows if row["isthing"] in members and row[key] is not None
            ]
            mean = sum(values) / len(values) if values else None
            pairs[f"{key} {group}"] = [recorded[key], mean]
    for row in rows:
        if row.get("pq") is not None:
            pairs[f"pq {row['name']}"] = [row["pq"], row["sq"] * row["rq"]]
    values = [row["iou"] for row in rows if row["iou"] is not None]
    if values:
        pairs["miou"] = [side["miou"], sum(values) / len(values)]
    return pairs


def _equivalences(content: Mapping[str, Any]) -> list[Claim]:
    """Of a checkpoint that both sides loaded: each score is equivalent within its margin.

    Where both sides score 0 nothing is claimed: two models that find nothing are alike in that.
    """
    return [
        claim(
            f"metric_converted/{name}",
            f"{name} of the converted weights is equivalent within {100 * shown['margin']:g} "
            "points",
            {
                "rule": "largest",
                "values": {name: shown["p_value"]},
                "limit": shown["alpha"],
                "otherwise": "not shown",
            },
            "p of two one-sided tests over paired images that the difference is as large as the "
            f"margin, at level {shown['alpha']:g}; where they do not reject it, the images are too "
            "few to tell",
            content["command"],
        )
        for name, one in content["comparison"]["scores"].items()
        if "holds" in (shown := one["equivalence"]) and any(_scored(content, name))
    ]


def _scored(content: Mapping[str, Any], name: str) -> Iterator[float]:
    """What each side scored."""
    for side in content["sides"].values():
        if name == "mIoU":
            yield side["miou"]
        else:
            yield side["panoptic"][name.removeprefix("PQ ")]["pq"]


def _of_training_runs(content: Mapping[str, Any]) -> list[Claim]:
    comparison = content.get("comparison")
    if comparison is None:
        return []
    intervals = {
        name: one["interval"] for name, one in comparison["scores"].items() if "interval" in one
    }
    if not intervals:
        return []
    away = [name for name, one in intervals.items() if not one["low"] <= 0 <= one["high"]]
    return [
        claim(
            "metric_trained/summary",
            "No score of the trained models differs beyond its 95 % interval, as was recorded",
            {"rule": "none", "of": len(intervals), "found": away},
            "intervals of the paired difference over images, as recorded at the end of training",
            content.get("command")
            or shlex.join(
                ["parity", "train", *zoo.config_words(content["config"]), "--side", "both"]
            ),
        )
    ]


_BY_SCHEMA: Mapping[str, Callable[[Mapping[str, Any]], list[Claim]]] = {
    RECEIPT: _of_receipt,
    EVALUATION: _of_evaluation,
    TRAINING_RUNS: _of_training_runs,
}
