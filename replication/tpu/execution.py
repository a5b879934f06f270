"""The training step of several replicas as a TPU would be given it, executed and judged."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from parity.claims import Claim, Place, all_hold, claim, margin_claim
from parity.judge import BFLOAT16, MORE, PRECISION_FACTOR, Verdict, precision_verdict
from parity.measurements import Findings, Multiple, Running
from parity.metrics import Gap, gap, worst
from parity.steps import give_back
from parity.training.trajectory import weight_gap
from replication.sides.tf_side import build_port, trainable_layouts
from replication.tpu import mistakes
from replication.tpu.one_process import OneProcess
from replication.tpu.ranks import Ranked, Share, further_ranked, ranked_updates, shares
from replication.tpu.stepping import (
    MODES,
    NORM,
    TOTAL,
    Exact,
    clip_factor,
    exact_updates,
    further_gradients,
    kept_steps,
    measured_updates,
    relative,
    twins,
)
from replication.tpu.training_case import Case, training_case
from reports.chapters.execution import ExecutionResult, RoundedProducts, Rule, WrongReduction

if TYPE_CHECKING:
    from maskformer.model.zoo import Entry
    from tf_impl.tpu.execution import Executed
    from tf_impl.tpu.lowering import Program

ROUNDING = 2.0**-24
"""Of one number of float32, in which variables are kept in every precision."""

DTYPES = {"float32": "float32", "bf16": BFLOAT16}
"""Precisions of a program, as they are judged."""

RULES = {
    "global": "one TensorFlow process on the whole batch",
    "ddp_mean": "as many PyTorch processes, which average their gradients",
}
"""How losses are divided over replicas, and what then makes the same updates."""


@dataclass(frozen=True)
class Request:
    """What is executed: one entry of the zoo, `replicas` of `per_replica` images of `size` each.

    A replica's images are computed in `parts`. With `plant`, every mistake of
    `tf_impl.tpu.reductions.WRONG` is made in the program, too; it is executed once more for each of
    `products`, passes of bfloat16 in which products of float32 are made.
    """

    entry: "Entry"
    size: tuple[int, int]
    replicas: int = 2
    per_replica: int = 1
    precision: str = "float32"
    steps: int = 5
    targets: int = 100
    parts: int = 1
    plant: bool = False
    products: tuple[int, ...] = ()
    command: str = "parity preflight --execute"


@dataclass(frozen=True)
class _Lowered:
    """The program of a case under one rule, and which of its variables are what.

    `weights` and `moments` are indices among `Program.captured` by state-dict key, `layouts` turn
    both into torch's; a moment is the gradient times `factor`, where weight decay is no part of it.
    """

    program: "Program"
    weights: Mapping[str, int]
    moments: Mapping[str, int]
    layouts: Mapping[str, Any]
    factor: float
    decays: Mapping[str, float]
    before: Mapping[str, np.ndarray]


class Replicas:
    """What the replicas of an executed program have, as a `Run` that was made already."""

    def __init__(self, lowered: _Lowered, executed: "Executed", clip: float | None) -> None:
        self._lowered, self.executed, self._clip = lowered, executed, clip
        self._step = 0

    def step(self, number: int) -> dict[str, float]:
        """The numbers of an update: losses are means over replicas."""
        self._step = number
        found = self.executed.results[number]
        named = {_name(path): float(np.mean(np.float64(one))) for path, one in found.items()}
        return {name: value for name, value in named.items() if name}

    def gradients(self) -> dict[str, np.ndarray]:
        """The first replica's gradients after the first update, clipped."""
        return self._gradients(0)

    def weights(self) -> dict[str, np.ndarray]:
        """The first replica's weights after the last update."""
        return self._kept(self._lowered.weights, self._step, 0)

    def losses(self, replica: int) -> dict[str, float]:
        """The losses of one replica in the first update."""
        found = {_name(path): one[replica] for path, one in self.executed.results[0].items()}
        return {name: float(one) for name, one in found.items() if name.startswith("loss_")}

    def reduced(self, replica: int) -> dict[str, np.ndarray]:
        """The gradients that one replica had before they were clipped, float64."""
        norms = {_name(path): one for path, one in self.executed.results[0].items()}
        scale = clip_factor(float(norms[NORM][replica]), self._clip)
        return {key: np.float64(one) / scale for key, one in self._gradients(replica).items()}

    @property
    def differing(self) -> list[str]:
        """The variables that are not bit-equal among replicas, by step."""
        captured = self._lowered.program.captured
        return [
            f"step {step + 1}: {captured[index].name}"
            for step, indices in enumerate(self.executed.differing)
            for index in indices
        ]

    def _gradients(self, replica: int) -> dict[str, np.ndarray]:
        lowered = self._lowered
        found = self._kept(lowered.moments, 0, replica)
        return {
            key: np.float64(one) / lowered.factor - lowered.decays[key] * lowered.before[key]
            for key, one in found.items()
        }

    def _kept(self, indices: Mapping[str, int], step: int, replica: int) -> dict[str, np.ndarray]:
        kept = self.executed.kept[step]
        return {
            # Of a variable that all replicas have alike there is one copy.
            key: self._lowered.layouts[key].to_torch(kept[index][replica % len(kept[index])])
            for key, index in indices.items()
        }


@dataclass(frozen=True)
class Beside:
    """What makes the updates that replicas should make under one rule."""

    case: Case
    rule: str
    precision: str
    ranked: Ranked

    @cached_property
    def further(self) -> Mapping[str, Gap]:
        """`further_gradients` of the first update; computed where the claim on them fails."""
        if self.rule == "ddp_mean":
            return further_ranked(self.case.of_parts, self.precision, self.ranked.exact)
        start = partial(OneProcess, self.case, self.precision)
        return further_gradients(start, self.ranked.exact)

    @cached_property
    def shares(self) -> list[Share]:
        """What each rank finds of the first update; computed where a claim fails."""
        return shares(self.case, self.rule)

    def first(self) -> "Beside":
        """The first update alone."""
        ranked, exact = self.ranked, self.ranked.exact
        one = Exact(exact.numbers[:1], exact.gradients, {0: exact.weights[0]})
        return Beside(self.case, self.rule, self.precision, Ranked(one, ranked.own, ranked.twins))


def executed_step(
    request: Request, note: Callable[[str], None] = lambda text: None
) -> ExecutionResult:
    """Executes the training step of the request under both rules, and judges it.

    `note` receives a line for each step of the work. Raises InputError where an option cannot be
    used, or JAX is not installed.
    """
    from parity.provenance import provenance
    from tf_impl.tpu.products import check_passes

    for passes in request.products:
        check_passes(passes)
    case = training_case(
        request.entry,
        request.size,
        (request.replicas, request.per_replica),
        request.steps,
        request.targets,
    )
    case = replace(case, parts=request.parts)
    rules, claims, planted, rounded = [], [], [], []
    for rule, words in RULES.items():
        note(f"{rule}: {words}, in float64 and {request.precision}")
        beside = Beside(case, rule, request.precision, _ranked(case, rule, request.precision))
        give_back()
        note(f"{rule}: lowering the step of {request.replicas} replicas")
        lowered = _lower(case, rule, request.precision)
        note(f"{rule}: compiling and executing it")
        found = _execute(case, lowered)
        judged = _judge(case, beside, found, request)
        claims += judged
        rules.append(
            Rule(
                name=rule,
                beside=words,
                verdict="holds" if all_hold(judged) else "fails",
                compile_seconds=found.executed.compile_seconds,
                run_seconds=found.executed.run_seconds,
            )
        )
        if request.plant and rule == "global":
            first = beside.first()
            planted = [
                _planted(case, lowered, first, request, identity, note)
                for identity in mistakes.WRONG
            ]
            claims.append(_noticed(planted, request.command))
        if request.products and rule == "global":
            rounded = [_rounded(0, found, beside.ranked.exact)]
            for passes in request.products:
                note(f"{rule}: executing it with products in {passes} of bfloat16")
                again = _execute(case, lowered, products=passes)
                rounded.append(_rounded(passes, again, beside.ranked.exact))
    return ExecutionResult(
        verdict="holds" if all_hold(claims) else "fails",
        claims=tuple(claims),
        command=request.command,
        config=request.entry.name,
        precision=request.precision,
        image_size=tuple(request.size),
        replicas=request.replicas,
        per_core_batch=request.per_replica,
        micro_batches=request.parts,
        steps=request.steps,
        targets=request.targets,
        rules=tuple(rules),
        wrong_reductions=tuple(planted),
        rounded_products=tuple(rounded),
        provenance=provenance(
            config=request.entry.name,
            config_sha256=case.config.digest,
            weights=case.weights.source,
            weights_sha256=case.weights.sha256,
        ),
    )


def _ranked(case: Case, rule: str, precision: str) -> Ranked:
    """What the replicas' updates are held to."""
    if rule == "ddp_mean":
        return ranked_updates(case.of_parts, precision)
    from parity.frameworks.tensorflow.reordered import reordered

    exact = exact_updates(OneProcess(case, "float64"), len(case.batches))
    give_back()
    own = measured_updates(OneProcess(case, precision), exact)
    moved = twins(lambda seed: OneProcess(case, precision, seed), reordered, exact)
    return Ranked(exact, own, moved)


def _lower(case: Case, rule: str, precision: str) -> _Lowered:
    """The program, without dropout, whose masks no two frameworks draw alike."""
    from tf_impl.optimizer import build_optimizer, parameter_groups
    from tf_impl.tpu.lowering import Shapes, lower_train_step

    model = build_port(case.config, case.weights, MODES[precision])
    if not case.config.is_per_pixel:
        model.criterion.normalisation = rule
    optimizer = build_optimizer(model, case.solver, "float32")
    shapes = Shapes(case.per_replica, *case.batches[0].images.shape[1:3], case.most)
    program = lower_train_step(
        model, optimizer, shapes, case.replicas, training=False, parts=case.parts
    )
    held = {id(getattr(one, "handle", one)): index for index, one in enumerate(program.captured)}
    layouts = trainable_layouts(model)
    variables = dict(zip([key for key, _ in layouts], model.trainable_variables, strict=True))
    adam = case.solver.optimizer == "ADAMW"
    groups = parameter_groups(model, case.solver)
    moments = {key: optimizer.first_moment(one) for key, one in variables.items()}
    return _Lowered(
        program,
        _indices(held, variables),
        _indices(held, moments),
        dict(layouts),
        1 - case.solver.betas[0] if adam else 1.0,
        {key: 0.0 if adam else groups[key][1] for key in variables},
        {key: case.weights.state[key] for key in variables},
    )


def _indices(held: Mapping[int, int], variables: Mapping[str, Any]) -> dict[str, int]:
    """Where the program has these variables; one that no loss depends on may lack."""
    places = {key: held.get(id(one.handle)) for key, one in variables.items()}
    return {key: place for key, place in places.items() if place is not None}


def _execute(
    case: Case, lowered: _Lowered, wrong: str = "", steps: int | None = None, products: int = 0
) -> Replicas:
    from replication.sides.tf_side import port_batch
    from tf_impl.tpu.execution import Given, execute

    count = len(case.batches) if steps is None else steps
    batches = []
    for given in case.batches[:count]:
        batch = port_batch(
            case.config, given.images, given.sizes, given.targets, "float32", case.most
        )
        targets = [batch.targets] if case.config.is_per_pixel else list(batch.targets)
        batches.append([one.numpy() for one in (batch.images, batch.sizes, *targets)])
    kept = {step: [*lowered.weights.values()] for step in kept_steps(count)}
    kept[0] += lowered.moments.values()
    executed = execute(lowered.program, Given(batches, kept, wrong, case.clip, products))
    return Replicas(lowered, executed, case.clip)


def _judge(case: Case, beside: Beside, found: Replicas, request: Request) -> list[Claim]:
    """The claims on replicas beside what should make the same updates."""
    rule, ranked = beside.rule, beside.ranked
    numbers = _numbers_claim(rule, found, ranked, request)
    gradients = _gradients_claim(rule, found, ranked, request)
    if numbers.holds and not gradients.holds:
        gradients = _gradients_claim(rule, found, ranked, request, beside.further)
    claims = [
        numbers,
        gradients,
        *_running_claims(rule, found, ranked, request),
        _equal_claim(rule, found, request.command),
    ]
    if all_hold(claims):
        return claims
    why = None
    if rule == "global" or case.parts == 1:  # the original has a process for each part
        why = mistakes.cause(case, rule, beside.shares, _of_replicas(case, found, ranked))
    part = "criterion" if why == mistakes.WRONG["counts-apart"].what else "reduction over replicas"
    return [
        one if one.holds else one.located(Place.at("update", part), *filter(None, [why]))
        for one in claims
    ]


def _of_replicas(case: Case, found: Replicas, beside: Ranked) -> mistakes.Found:
    every = range(case.replicas)
    measured = (beside.own, *beside.twins)
    numbers = [one.l2 for run in measured for name, one in run.numbers.items() if name != NORM]
    return mistakes.Found(
        [found.losses(replica) for replica in every],
        [found.reduced(replica) for replica in every],
        mistakes.allowed([run.whole for run in measured], ROUNDING),
        mistakes.allowed(numbers, ROUNDING),
    )


def _verdicts(
    found: Mapping[str, Any],
    exact: Mapping[str, Any],
    own: Mapping[str, Gap],
    twins: Sequence[Mapping[str, Gap]],
    request: Request,
) -> dict[str, Verdict]:
    """What is found of `exact`, judged by the errors of one process and of its twins."""
    return {
        key: precision_verdict(
            key,
            gap(np.float64(found[key]), np.float64(wanted)),
            own[key],
            worst(one[key] for one in twins),
            dtype=DTYPES[request.precision],
        )
        for key, wanted in exact.items()
        if key in found
    }


def _numbers_claim(rule: str, found: Replicas, beside: Ranked, request: Request) -> Claim:
    numbers, exact = found.step(0), beside.exact.numbers[0]
    twins = [one.numbers for one in beside.twins]
    verdicts = _verdicts(numbers, exact, beside.own.numbers, twins, request)
    return margin_claim(
        f"{rule}/losses",
        f"Losses and the gradients' norm of {_replicas(request)} are those of {RULES[rule]}",
        verdicts,
        "largest error of a mean over replicas in units of its limit; " + _limit(request),
        request.command,
        sorted({*exact} ^ {*numbers}),
    )


_FURTHER = (
    f"; or the gap of {MORE} further runs, with weights and images {PRECISION_FACTOR:g} units away"
)


def _gradients_claim(
    rule: str,
    found: Replicas,
    beside: Ranked,
    request: Request,
    further: Mapping[str, Gap] | None = None,
) -> Claim:
    gradients, exact = found.gradients(), beside.exact.gradients
    twins = [one.gradients for one in beside.twins]
    twins += [] if further is None else [further]
    told = "" if further is None else _FURTHER
    verdicts = _verdicts(gradients, exact, beside.own.gradients, twins, request)
    return margin_claim(
        f"{rule}/gradients",
        f"The gradients by which {_replicas(request)} update, added up and clipped, are "
        f"those of {RULES[rule]}",
        verdicts,
        "largest error of a parameter's gradient, as the optimizer's first moment has it, in units "
        "of its limit; " + _limit(request) + told,
        request.command,
        sorted(exact.keys() - gradients.keys()),
    )


def _replicas(request: Request) -> str:
    """The replicas in words."""
    parts = f", each in {request.parts} parts," if request.parts > 1 else ""
    return f"{request.replicas} replicas{parts}"


def _limit(request: Request) -> str:
    return (
        f"the limit is {PRECISION_FACTOR:g} x the error that those have in {request.precision} "
        "against float64, or the gap of their twins where larger: weights and images one unit in "
        "the last place away, and sums in another order"
    )


def _running_claims(rule: str, found: Replicas, beside: Ranked, request: Request) -> list[Claim]:
    losses, weights = {}, {}
    for number, wanted in enumerate(beside.exact.numbers):
        step = str(number + 1)
        losses[step] = relative(found.step(number)[TOTAL], wanted[TOTAL])
        if number in beside.exact.weights:
            weights[step] = weight_gap(found.weights(), beside.exact.weights[number])
    measured = {"weights": (weights, "weights"), "steps": (losses, "losses")}
    titles = {
        "weights": "Weights after one update and after all",
        "steps": "The total loss at every step",
    }
    claims = []
    for name, (ours, theirs) in measured.items():
        own = [getattr(run, theirs) for run in (beside.own, *beside.twins)]
        largest = {step: max(one[step] for one in own) for step in ours}
        running = Running(ours, largest, ROUNDING, Multiple("float32_ratio", 1))
        one = claim(
            f"{rule}/{name}",
            f"{titles[name]}: no further from float64 than {PRECISION_FACTOR:g} times "
            f"{RULES[rule]}",
            running,
            "the replicas' largest relative gap up to a step in units of the largest up to there "
            f"of those in {request.precision} and their twins, which counts as no less than the "
            f"rounding of one number, {ROUNDING:.2g}",
            request.command,
        )
        claims.append(one.decided_by(int(running.worst()[1])))
    return claims


def _equal_claim(rule: str, found: Replicas, command: str) -> Claim:
    executed = found.executed
    return claim(
        f"{rule}/replicas",
        "After every update all replicas have the same bits",
        Findings(executed.changed * len(executed.results), found.differing),
        "variables, weights and the optimizer's, of which a replica's copy differs from the first "
        "one's in any bit",
        command,
    )


def _planted(
    case: Case,
    lowered: _Lowered,
    beside: Beside,
    request: Request,
    identity: str,
    note: Callable[[str], None],
) -> WrongReduction:
    """One mistake made in the program, and what is said of it after one update."""
    note(f"planting {identity}")
    found = _execute(case, lowered, identity, steps=1)
    failing = [one for one in _judge(case, beside, found, request) if not one.holds]
    causes = [cause for one in failing for cause in one.causes]
    return WrongReduction(
        id=identity,
        what=mistakes.WRONG[identity].what,
        found_by=tuple(one.id for one in failing),
        cause=causes[0] if causes else "",
    )


def _rounded(passes: int, found: Replicas, exact: Exact) -> RoundedProducts:
    """How far the replicas' updates are from those in float64."""
    measured = measured_updates(found, exact)
    return RoundedProducts(
        passes=passes,
        losses=tuple(measured.losses.values()),
        norm=measured.numbers[NORM].l2,
        gradients=measured.whole,
        weights=measured.weights[str(len(exact.numbers))],
    )


def _noticed(planted: Sequence[WrongReduction], command: str) -> Claim:
    missed = [one.id for one in planted if one.cause != one.what]
    return claim(
        "wrong_reductions",
        "Mistakes planted in the program's reduction are noticed, and named",
        Findings(len(planted), missed),
        "mistakes in the reduction over replicas, planted in the lowered program, that no claim "
        "fails for or that are called otherwise",
        command,
    )


def _name(path: str) -> str:
    """What a result of the step is called here; empty for what is not compared."""
    if path.startswith("losses/"):
        return path.removeprefix("losses/")
    return {"total": TOTAL, "gradient_norm": NORM}.get(path, "")
