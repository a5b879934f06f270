"""Where an audit's result disagrees with what its claims rest on: figures, order, and places."""

from collections import defaultdict
from collections.abc import Iterator, Mapping

from parity.auditing.result import (
    AuditResult,
    FunctionFigures,
    FunctionSummary,
    PrecisionFigures,
    PrecisionSummary,
)
from parity.claims import Place
from parity.judge import CLAIMS, Verdict, judge_again
from parity.measurements import Margins
from parity.trace import module_of, shown
from reports.checks import Difference, differ, differing_verdict

Verdicts = Mapping[str, Verdict]


def differing(result: AuditResult) -> Iterator[Difference]:
    """Every place of the result that does not follow from its measurements."""
    yield from differing_verdict(result, "equal", "different")
    function = result.claimed("same_function").measured.verdicts()
    precision = {
        name: result.claimed(f"same_precision_{name}").measured.verdicts()
        for name in result.float32
    }
    unpaired = [*result.unpaired.reference, *result.unpaired.port]
    yield from differ("unpaired", result.claimed("pairing").measured.found, unpaired)
    yield from differ("taps", len(function), result.taps)
    yield from differ("float64", FunctionSummary.of(function), result.float64)
    for name, verdicts in precision.items():
        yield from differ(f"float32.{name}", PrecisionSummary.of(verdicts), result.float32[name])
    yield from differ("layers", list(function), [row.key for row in result.layers])
    for index, row in enumerate(result.layers):
        place = f"layers[{index}] ({row.key})"
        yield from differ(f"{place}.path", module_of(row.key), shown(row.path))
        yield from differ(f"{place}.kind", _kind(row.key), row.kind)
        yield from differ(
            f"{place}.float64", FunctionFigures.of(function[row.key], None), row.float64
        )
        for name, verdicts in precision.items():
            if row.key in verdicts:
                expected = PrecisionFigures.of(verdicts[row.key])
                yield from differ(f"{place}.float32.{name}", expected, row.float32.get(name))
    first, said = _first(result, function, precision), result.first_divergence or ""
    if said == "" or first != shown(said):  # earlier recordings have the path itself
        yield from differ("first_divergence", first, said)
    yield from _effects(result)
    yield from _places(result)


def _kind(key: str) -> str:
    """What a tensor is of its module, `input` or `output`, from its key."""
    return key.partition(":")[2].partition(".")[0]


def _first(result: AuditResult, function: Verdicts, precision: Mapping[str, Verdicts]) -> str:
    """The module of the first tensor above its limit, in the order of the reference's execution.

    Where no tensor is, or the whole model is named by it, the first place that was found.
    """
    every = (function, *precision.values())
    order = dict.fromkeys(key for verdicts in every for key in verdicts)
    failed = [key for key in order if any(key in one and one[key].fails for one in every)]
    first = module_of(failed[0]) if failed else ""
    if first in ("", "model") and result.localisations:
        return result.localisations[0].path
    return first


def _effects(result: AuditResult) -> Iterator[Difference]:
    """What reading the tensors changed is what the claims on that measured."""
    for one in result.claims:
        for start, name in (("capture_", "same program"), ("production_", "production")):
            if one.id.startswith(start) and one.measured is not None:
                execution = one.id.removeprefix(start)
                said = result.capture_effect.get(execution, {}).get(name)
                yield from differ(
                    f"capture_effect.{execution}.{name}", one.measured.values.get(name), said
                )


def _places(result: AuditResult) -> Iterator[Difference]:
    """The places at fault: each with its cause, in order, and those that ran alone and failed."""
    order = {row.key: index for index, row in enumerate(result.layers)}
    alone = next((one for one in result.claims if one.id == "isolated_function"), None)
    ran_alone = alone is not None and isinstance(alone.measured, Margins)
    known = alone.measured.verdicts() if ran_alone else {}
    unpaired = (*result.unpaired.reference, *result.unpaired.port)
    ranks = [order.get(one.edge, len(order)) for one in result.localisations]
    yield from differ("localisations (their order)", sorted(ranks), ranks)
    for index, one in enumerate(result.localisations):
        place = f"localisations[{index}] ({one.path})"
        best = one.explanations[0] if one.explanations else None
        yield from differ(f"{place}.cause", best.text if best and best.exact else None, one.cause)
        for number, each in enumerate(one.verdicts):
            again = judge_again(each.key, each.claim, each.measured, each.problem)
            for name in ("metric", "value"):
                yield from differ(
                    f"{place}.verdicts[{number}].{name}", getattr(again, name), getattr(each, name)
                )
            told_of = ("value", "floor", "derivation")  # older recordings have these alone
            for name in (*told_of, *(("rounding",) if each.threshold.rounding else ())):
                told, said = (getattr(one.threshold, name) for one in (again, each))
                yield from differ(f"{place}.verdicts[{number}].threshold.{name}", told, said)
            measured = known.get(each.key) or known.get(f"{one.path}:handed to {each.key}")
            seen = each.key in order or each.key in unpaired or each.key == one.edge
            if measured is None and not (seen and each.claim in CLAIMS):
                yield f"{place}.verdicts[{number}]", "a tensor that was compared", each.key
            for name in ("claim", "measured", "problem") if measured else ():
                told, said = (getattr(one, name) for one in (measured, each))
                yield from differ(f"{place}.verdicts[{number}].{name}", told, said)
    if not ran_alone:
        return
    failing = _failing(known)
    named = [one.path for one in result.localisations]
    for path, keys in failing.items():
        if path not in named and not _told(path, keys, failing, result):
            yield "localisations", f"{path}, which fails when it runs alone", named
    for index, one in enumerate(result.localisations):
        if one.path not in failing and not _given_wrongly(one):
            place = f"localisations[{index}].path"
            yield place, "a module that fails when it runs alone", one.path
    if failing and result.localisations:
        first = result.localisations[0]
        yield from differ("claims (isolated_function).place", Place.at(first.path), alone.place)
        yield from differ("claims (isolated_function).cause", first.cause, alone.cause)


def _failing(verdicts: Verdicts) -> dict[str, list[str]]:
    """By module, the keys of what it makes wrong when it runs alone."""
    found = defaultdict(list)
    for key, verdict in verdicts.items():
        if verdict.fails:
            found[module_of(key)].append(key)
    return found


def _told(path: str, keys: list[str], failing: Mapping[str, object], result: AuditResult) -> bool:
    """Whether a module that fails alone is rightly no place.

    It hands something to a module that fails itself, or is said to be judged with another.
    """
    receivers = [module_of(key.partition(":handed to ")[2]) for key in keys]
    if all(one and one in failing for one in receivers):
        return True
    texts = (*result.not_verified, *(one.evidence for one in result.localisations))
    return any(path in text for text in texts)


def _given_wrongly(one: object) -> bool:
    """Whether a place says that the two models were given different inputs."""
    return one.path == "model" and one.kind == "wiring" and one.edge.startswith("model:input")
