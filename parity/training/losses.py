"""The claims on a loss: in place, alone on the reference's outputs, and what it passes back."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from parity.claims import Claim, Place, claim, margin_claim
from parity.gradients import gradient_verdict
from parity.judge import Verdict, function_verdict
from parity.measurements import Findings
from parity.metrics import failed, gap
from parity.pairing import tap_gap
from parity.trace import Tap
from parity.training.loss_causes import causes
from parity.training.measured import Floored, ReferenceStep
from parity.training.sides import Side

LOSS = "loss"  # the place of a loss in a claim
LIMIT = (
    "largest gap in units of its limit, min(32 x floor, 1e-9); the floor is the reference's own "
    "gap when what it is given moves by one unit in the last place"
)


def loss_claims(
    step: ReferenceStep, port: Side, recorder: Any, in_place: Mapping[str, float], command: str
) -> list[Claim]:
    """In place, alone, and the gradients alone; `recorder` is the port's forward recorder."""
    terms, gradients = port.alone(recorder, step.outputs, "eager")
    ours = {name: np.asarray(value) for name, value in in_place.items()}
    alone = _terms(
        "train_losses_alone",
        "On the reference's outputs every term of the loss is the same in float64",
        terms,
        step.alone,
        command,
    )
    passed = _by_output(gradients, step.by_output, command)
    placed = _terms(
        "train_losses",
        "Every term of the loss, each side's own, is the same in float64",
        ours,
        step.losses,
        command,
    )
    found = ()
    if alone.fails or passed.fails:
        found = causes(step, port, recorder, terms, gradients)
    alone = alone.located(Place.at(LOSS, _wrong(alone)), *found)
    passed = passed.located(Place.at(LOSS, f"gradient of {_wrong(passed)}"), *found)
    if alone.fails:
        placed = placed.located(Place.inherits("the loss alone"), *found)
    else:
        placed = placed.located(Place.inherits("the outputs"))
    return [placed, alone, passed]


def decisions_claim(step: ReferenceStep, ours: Mapping[str, np.ndarray], command: str) -> Claim:
    """That what is decided by the reference's outputs is the same."""
    wrong = [
        name
        for name, value in step.decided.items()
        if name not in ours or not np.array_equal(ours[name], value)
    ]
    wrong += [name for name in ours if name not in step.decided]
    one = claim(
        "train_decisions",
        "By the reference's outputs both sides decide the same",
        Findings(len(step.decided), wrong),
        "decisions of the loss, such as the pairs of a matching, that differ",
        command,
    )
    return one.located(Place.at("decisions", ", ".join(wrong[:3])))


def with_decisions(losses: Sequence[Claim], decisions: Claim) -> list[Claim]:
    """The claims on a loss and on what it decides: what is decided otherwise is the source of a
    loss that differs, and has its cause."""
    if not decisions.fails:
        return [*losses, decisions]
    causes = tuple(dict.fromkeys(cause for one in losses for cause in one.causes))
    decided = decisions.located(decisions.place or Place.at("decisions"), *causes)
    source = Place.inherits("what is decided")
    return [*(one.located(source, *one.causes) for one in losses), decided]


def _terms(
    identity: str, title: str, ours: Mapping[str, Any], exact: Floored, command: str
) -> Claim:
    verdicts, lost = {}, [name for name in ours if name not in exact.values]
    for name, value in exact.values.items():
        if name not in ours:
            lost.append(name)
            continue
        found = gap(np.asarray(ours[name]), np.asarray(value))
        verdicts[name] = function_verdict(name, found, exact.floors.get(name, failed("no twin")))
    return _margins(identity, title, verdicts, lost, command)


def _by_output(ours: Mapping[str, Tap], exact: Floored, command: str) -> Claim:
    title = "On the reference's outputs the loss passes the same gradient to each of them"
    verdicts, lost = {}, []
    for key, tap in exact.values.items():
        if key in ours:
            verdicts[key] = gradient_verdict(key, tap_gap(ours[key], tap), exact.floors[key])
        elif np.any(tap.array):
            lost.append(key)
    lost += [key for key, tap in ours.items() if key not in exact.values and np.any(tap.array)]
    return _margins("train_loss_gradient", title, verdicts, lost, command)


def _margins(
    identity: str, title: str, verdicts: Mapping[str, Verdict], lost: list[str], command: str
) -> Claim:
    if verdicts:
        return margin_claim(identity, title, verdicts, LIMIT, command, lost)
    return claim(identity, title, Findings(len(lost), lost), LIMIT, command)


def _wrong(one: Claim) -> str:
    """The names of what fails in a claim on margins, a few."""
    verdicts = getattr(one.measured, "verdicts", dict)()
    wrong = [key for key, verdict in verdicts.items() if verdict.fails]
    return ", ".join([*one.measured.lacking, *wrong][:3])
