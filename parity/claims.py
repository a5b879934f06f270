"""Claims, and what they rest on: value, limit and verdict of a claim come from its measurements.

A claim carries what was measured under "measured", so that it can be judged again without a model,
also by other limits. "measured" is a JSON object whose "rule" is one of `RULES`:

- verdicts: {"claim": one of `parity.judge.CLAIMS`, "cases": [[key, {metric: [value, base]},
  problem or null], ...]}. The value is the worst margin, in units of its own limit; the limit is 1.
- none: {"of": count, "found": [...]}. The value is how many were found; the limit is 0.
- largest: {"values": {name: number}, "limit": limit}.
- relative: {"pairs": {name: [port's, reference's]}, "limit": limit}. The value is the largest
  |port - reference| / |reference|; a number that one side lacks (null) is infinitely far.
- sum: {"values": {name: number}, "limit": limit}. The value is the sum.
- running: {"port": {step: number}, "beside": {step: number}, "least": number, "limit": limit}. The
  value is the largest ratio of the port's largest number up to a step to that of the other up to
  there, which counts as no less than "least".
- missed: {"of": count, "found": [...], "least": a field of `parity.judge.Limits`}. The value is the
  share that was found; the limit is what "least", a share that must not be, leaves.
- equivalence: {"differences": {name: number}, "margin": number, "limit": level}. The value is the
  larger p of two one-sided t-tests that the mean difference is inside (-margin, margin); 1 where
  "best", the best score of any run, is 0, since scores that are all 0 show nothing.
- matching: {"places": [{"place", "pairs", "differing", "certificate"}]}, see `matching_place`. The
  value is how many places are wrong; the limit is 0.

A limit is a number, or {"name": a field of `parity.judge.Limits`, "times": number}. Any of them may
also have "lacking": [...], parts that one side does not have; a claim that lacks any fails. With
"otherwise": "WORD", a claim that is not met is not refuted: its verdict is that word.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from parity.judge import Verdict
from parity.measurements import Measured, digest, judge, of_verdicts


def claim(
    identity: str, title: str, measured: Measured, derivation: str, command: str
) -> dict[str, Any]:
    """One claim of a result, judged from what was measured, with the digest of that.

    Args:
        identity: short name, unique in a result.
        measured: see this module; numbers may be infinite or NaN.
        derivation: where the limit comes from, in words a reader can check.
        command: the command that measures it again.
    """
    judged = judge(measured)
    return {
        "id": identity,
        "title": title,
        "verdict": judged.verdict,
        "value": judged.value,
        "limit": judged.limit,
        "cases": judged.cases,
        "derivation": derivation,
        "evidence_sha256": digest(measured),
        "command": command,
        "measured": dict(measured),
    }


def margin_claim(
    identity: str,
    title: str,
    verdicts: Mapping[str, Verdict],
    derivation: str,
    command: str,
    lacking: Sequence[str] = (),
) -> dict[str, Any]:
    """A claim that holds where every verdict passes; its value is the worst margin, its limit 1."""
    measured = of_verdicts(list(verdicts.values()))
    if lacking:
        measured["lacking"] = list(lacking)
    return claim(identity, title, measured, derivation, command)


def located(one: Mapping[str, Any], place: str, cause: str | None) -> dict[str, Any]:
    """A failed claim with where, and why where that is known; one that holds stays as it is."""
    return dict(one) if one["verdict"] == "holds" else {**one, "place": place, "cause": cause}


def failure(one: Mapping[str, Any]) -> str:
    """One line on a claim that fails: what, where, why."""
    place = f" [{one['place']}]" if one.get("place") else ""
    cause = f", likely: {one['cause']}" if one.get("cause") else ""
    return f"fails: {one['title']}{place}{cause}"
