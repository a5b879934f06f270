"""What a report says first: equal or not, where it differs first, why, and what to do next.

The page, its Markdown twin and `parity explain` tell this one story. Texts may have code between
backticks, which a page draws as code and a terminal prints without.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from parity.auditing.result import AuditResult
from parity.claims import Claim
from parity.localise import Localisation
from parity.measurements import Findings, Margins, Matching, Relative, relative_gap
from reports import words
from reports.derived import Stated, all_claims
from reports.document import describe, number
from reports.evidence import Evidence
from reports.ladder import BESIDE
from reports.precision_place import less_exact

_LINE = re.compile(r"(?P<source>[^\s:`]+\.\w+:\d+)(, [^:`]+)?: `(?P<code>.*)`: (?P<what>.+)", re.S)
_OPERATION = re.compile(r"`(?P<code>[^`]*)`: (?P<what>.+)", re.S)
_VALUES = re.compile(r"largest at (?P<at>\[.*?\]): port (?P<port>.+), reference (?P<reference>.+)")
_BESIDE = frozenset(rung.id for rung in BESIDE)
NAMED = 4  # texts of one fact
WHAT = {
    "own": "computes another function",
    "wiring": "computes something else between the modules it calls",
}


@dataclass(frozen=True)
class Told:
    """One place at fault: where, what, why, both values, the limit, and the next step.

    Args:
        source, code: the line in the reference that the cause names, and what stands there, or the
            operation without its line; empty where no cause was found.
        port, reference, at: the values that are furthest apart, as recorded, and their index.
        value, limit: what was measured at the place, in words.
    """

    number: int
    where: str
    what: str
    cause: str
    next: str
    source: str = ""
    code: str = ""
    port: str = ""
    reference: str = ""
    at: str = ""
    value: str = ""
    limit: str = ""
    title: str = ""

    @property
    def line(self) -> str:
        """The place in one sentence."""
        text = f"`{self.where}` {self.what}"
        if self.cause:
            text += f": {self.cause}"
        elif self.limit:
            text += f": off by {self.value}, limit {self.limit}; no cause is known"
        elif self.value:
            text += f": {self.value}; no cause is known"
        return f"{text} ({self.source})." if self.source else f"{text}."

    @property
    def facts(self) -> tuple[tuple[str, str], ...]:
        """What is known of the place, by name."""
        code = f"`{self.code}`" if self.code else ""
        index = f" at {self.at}" if self.at else ""
        pairs = (
            ("cause", self.cause or "none was found"),
            ("in the reference", " ".join(filter(None, (self.source, code)))),
            ("port", self.port and f"{self.port}{index}"),
            ("reference", self.reference and f"{self.reference}{index}"),
            ("error", self.value),
            ("limit", self.limit),
            ("claim", self.title),
            ("next", self.next),
        )
        return tuple((name, text) for name, text in pairs if text)


@dataclass(frozen=True)
class Story:
    """What all results together say: `verdict` is equal, different or not decided.

    `about` says of what: models, weights, inputs, versions, date and commit. `places` are those at
    fault, the first first; `also` are claims that fail of which no place is known.
    """

    verdict: str
    sentence: str
    about: tuple[tuple[str, str], ...]
    places: tuple[Told, ...]
    also: tuple[str, ...]


def story_of(found: Sequence[Evidence], claims: Sequence[Stated] | None = None) -> Story:
    """The story of evidence, whose claims are `claims`."""
    claims = all_claims(found) if claims is None else claims
    judged = [one for one in claims if one.rung not in _BESIDE]
    failing = [one for one in judged if one.verdict == "fails"]
    places = _places(found, failing)
    verdict = "not decided"
    if failing:
        verdict = "different"
    elif any(one.verdict == "holds" for one in judged) and not _drowned(judged):
        verdict = "equal"
    named = {one.where for one in places}
    also = dict.fromkeys(
        one.title
        for one in failing
        if one.place is None or not (one.place.inherited or one.place.part in named)
        if one.title not in {place.title for place in places}
    )
    sentence = _sentence(verdict, found, judged, places, failing)
    return Story(verdict, sentence, about(found), places, tuple(also))


def bare(text: str) -> str:
    """A text for a terminal: code without its marks."""
    return text.replace("`", "")


def _drowned(claims: Sequence[Stated]) -> list[Stated]:
    return [one for one in claims if one.drowned]


def _sentence(
    verdict: str,
    found: Sequence[Evidence],
    judged: Sequence[Stated],
    places: Sequence[Told],
    failing: Sequence[Claim],
) -> str:
    if verdict == "equal":
        holding = [one for one in judged if one.verdict == "holds"]
        cases = sum(one.cases or 0 for one in holding)
        open_ones = sum(one.verdict not in ("holds", "not run") for one in judged)
        left = f"; {number(open_ones)} not decided" if open_ones else ""
        return (
            f"The port computes what the reference computes, for what was run: "
            f"{number(len(holding))} claims on {number(cases)} cases hold{left}."
        )
    if verdict == "not decided" and (drowned := _drowned(judged)):
        tied = [one for one in drowned if isinstance(one.measured, Matching)]
        return _tied(tied[0]) if tied else _open(drowned[0], judged)
    if verdict == "not decided":
        return "Nothing that was run compares the two sides so that it can tell."
    if places:
        more = len(places) - 1
        rest = f" {more} more place{'s' if more > 1 else ''}." if more else ""
        return f"{places[0].line}{rest}"
    for one in found:
        if isinstance(one.result, AuditResult) and one.result.verdict != "equal":
            lost = less_exact(one.result)
            if lost is not None:
                return f"The function is the same, but `{lost.key}` is {lost.cause}."
            if one.result.first_divergence:
                return _first(one.result)
    more = len(failing) - 1
    rest = f" {more} more claim{'s' if more > 1 else ''}." if more else ""
    measured = failing[0].measured
    found = list(map(str, measured.found)) if isinstance(measured, Findings) else []
    named = f": not {words.few(found, NAMED)}" if found else ""
    return f"This does not hold: {failing[0].title}{named}.{rest}"


def _tied(claim: Stated) -> str:
    """Where the matchings are others, at the same cost, and what would tell."""
    places = [one["place"] for one in claim.measured.places if one["differing"]]
    return (
        f"Not decided: {words.few(places, NAMED)} has other pairs than in the reference, which "
        "cost the same by the reference's own costs: neither is wrong. Next: the same with weights "
        "or inputs that make no two queries alike."
    )


def _open(claim: Stated, judged: Sequence[Stated]) -> str:
    """What cannot be told of a claim, what its modules say, and what would tell."""
    key, _, measured = claim.worst.partition(": ")
    alone = any(one.id == "isolated_function" and one.verdict == "holds" for one in judged)
    modules = " Every module that ran alone computes the same." if alone else ""
    return (
        f"Not decided: `{key}` is off by {measured}, and the reference is as far from itself when "
        f"its roundings move.{modules} Next: the same with weights or inputs that lose fewer "
        "digits there."
    )


def _first(result: AuditResult) -> str:
    """Where the tensors of an audit differ first, if no module was found that does so alone."""
    text = f"`{result.first_divergence}` has the first tensor above its limit"
    function = result.claimed("same_function").measured.verdicts().values()
    worst = next((one for one in function if one.fails), None)
    if worst is None or not worst.problem:
        return f"{text}; no module was found that differs when it runs alone."
    text += f": `{worst.key}` has {worst.problem}."
    if worst.problem.startswith("shape "):
        text += (
            " If only its axes are in another order, declare a `View` of it, or have it found: "
            "`Names(..., complete=False)`."
        )
    return text


def _places(found: Sequence[Evidence], failing: Sequence[Stated]) -> tuple[Told, ...]:
    """All places that make a difference themselves, those of forward passes first, each once."""
    told: dict[tuple[str, str], dict[str, Any]] = {}
    for one in found:
        if isinstance(one.result, AuditResult):
            changed = _changed(one.result)
            for place in one.result.localisations:
                weights = [name for name in changed if name.rpartition(".")[0] == place.path]
                parts = _of_localisation(place, weights, _command(one.result))
                told.setdefault((parts["where"], parts["cause"]), parts)
    known = {where for where, _ in told}
    for one in failing:
        if one.place is None or one.place.inherited:
            continue
        owner = one.place.part.rpartition(".")[0] if one.id == "weights" else ""
        if not {one.place.part, owner} & known:
            parts = _of_claim(one)
            told.setdefault((one.place.part, parts["cause"]), parts)
    return tuple(Told(index, **parts) for index, parts in enumerate(told.values(), 1))


def _command(result: AuditResult) -> str:
    """The command that audits again; an audit that was called in Python has none."""
    return result.command or next((one.command for one in result.claims if one.command), "")


def _changed(result: AuditResult) -> list[str]:
    """The weights that the port has otherwise."""
    return [
        str(name)
        for one in result.claims
        if one.id == "weights" and isinstance(one.measured, Findings)
        for name in one.measured.found
    ]


def _of_localisation(one: Localisation, weights: Sequence[str], command: str) -> dict[str, Any]:
    worst = next((each for each in one.verdicts if each.fails), None)
    parts = {"where": one.path, "what": WHAT.get(one.kind, one.kind), **_cause(one.cause)}
    if weights and not one.cause:
        parts["cause"] = f"its weights are not the reference's: {words.few(weights, NAMED)}"
    if worst is not None:
        if worst.problem:
            joint = " " if worst.problem.startswith("is ") else ": "
            text = f"`{worst.key}`{joint}{worst.problem}"
            return parts | {"value": text, "next": _next(bool(parts["cause"]), command)}
        parts |= {"value": f"{number(worst.value)} ({worst.metric})"}
        parts |= {"limit": number(worst.threshold.value)}
        if values := _VALUES.match(worst.detail):
            parts |= values.groupdict()
    return parts | {"next": _next(bool(parts["cause"]), command)}


def _of_claim(one: Stated) -> dict[str, Any]:
    parts = {"where": one.place.text, "what": "differs", **_cause(one.cause), "title": one.title}
    parts |= {"value": describe(one.value), "limit": describe(one.limit)}
    measured = one.measured
    if isinstance(measured, Relative):
        name = max(measured.pairs, key=lambda name: _gap(measured.pairs[name]))
        port, reference = measured.pairs[name]
        parts |= {"port": describe(port), "reference": describe(reference)}
    elif isinstance(measured, Margins):
        worst = max(measured.verdicts().values(), key=lambda each: each.margin)
        if not worst.problem:
            parts |= {"value": f"{number(worst.value)} ({worst.metric}, {worst.key})"}
            parts |= {"limit": number(worst.threshold.value)}
    return parts | {"next": _next(bool(one.cause), one.command)}


def _gap(pair: Sequence[float | None]) -> float:
    return relative_gap(*(None if one is None else float(one) for one in pair))


def _cause(text: str | None) -> dict[str, str]:
    """A cause in parts: the line of source, what stands there, and what the port does instead."""
    for pattern in (_LINE, _OPERATION):
        if text and (match := pattern.fullmatch(text)):
            parts = match.groupdict()
            return {
                "cause": parts["what"],
                "source": parts.get("source") or "",
                "code": parts["code"],
            }
    return {"cause": text or ""}


def _next(explained: bool, command: str) -> str:
    again = f"`{command}`" if command else "the audit"
    if explained:
        return f"mend it in the port, then run {again} again"
    return f"compare both sources at this place, mend the port, then run {again} again"


def about(found: Sequence[Evidence]) -> tuple[tuple[str, str], ...]:
    """Of what these results are: each fact once, the values of several results together."""
    facts: dict[str, list[str]] = {}

    def add(name: str, text: Any) -> None:
        if text and describe(text) not in facts.setdefault(name, []):
            facts[name].append(describe(text))

    for one in found:
        provenance, result = one.result.provenance, one.result
        models = provenance.get("models") or {}
        add("reference", models.get("reference"))
        add("port", models.get("port"))
        if one.config:
            add("models", f"MaskFormer {one.config}, PyTorch beside TensorFlow")
        elif not models and result.title:
            add("models", result.title)
        weights = provenance.get("weights") or getattr(result, "weights", "")
        digest = (provenance.get("weights_sha256") or "")[:12]
        if isinstance(weights, str) and (weights or digest):
            add("weights", " ".join(filter(None, (weights, digest and f"sha256 {digest}"))))
        for item in getattr(result, "inputs", ()):
            add("inputs", f"{item.name} {item.size}")
        for name, version in (provenance.get("packages") or {}).items():
            if version and name in ("torch", "tensorflow", "tf_keras", "keras", "jax", "flax"):
                add("versions", f"{name} {version}")
        add("date", provenance.get("date"))
        git = provenance.get("git") or {}
        commit = (git.get("commit") or "")[:12]
        add("commit", commit + (", with changes" if commit and git.get("dirty") else ""))
    order = ("reference", "port", "models", "weights", "inputs", "versions", "date", "commit")
    return tuple((name, words.few(facts[name], NAMED)) for name in order if facts.get(name))
