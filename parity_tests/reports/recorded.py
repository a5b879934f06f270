"""Results as their commands record them, made by the commands' own functions from drawn gaps."""

import itertools
from dataclasses import replace
from typing import Any

import numpy as np

from maskformer.model.tensor_axes import stage_of
from parity.assignment import Certificate
from parity.auditing.result import About, Input, Measured, Precision, build_result, isolated_claim
from parity.claims import claim, margin_claim, verdict_of
from parity.judge import function_verdict, gradient_verdict
from parity.localise import Localisation
from parity.measurements import Findings, Matching, Multiple, Relative, matching_place
from parity.metrics import Gap
from parity.trace import Tap, Trace
from parity_tests.reports.results import evaluation_result
from replication.faults import clean
from reports.chapters.clean import CleanOutcome
from reports.chapters.execution import PLANTED, ExecutionResult, Rule, WrongReduction
from reports.chapters.timings import Machine, Row, TimingsResult, figure, grown, is_met
from reports.chapters.training import StepResult

PATHS = ("", "backbone.stem.conv1", "backbone.res2.0.conv1", "sem_seg_head.pixel_decoder.layer_1")
COMMAND = "parity audit --config tiny"
PROVENANCE = {"python": "3.11.7", "packages": {"numpy": "2.0.0", "torch": "2.13.0"}, "cores": 2}


def _gaps(trace: Trace, seed: int, scale: float) -> dict[str, Gap]:
    random = np.random.default_rng(seed)
    return {
        key: Gap(scale * factor, 9 * scale * factor, peak=4.0, rms=1.0, ulps=(1, 9, 80))
        for key, factor in zip(trace, random.lognormal(0, 0.3, len(trace)).tolist(), strict=True)
    }


def audit(worst: float = 1.0, own: float | None = 1.0) -> dict[str, Any]:
    """An audit of eight tensors; with `worst` 1e6 one of them is above its float64 limit.

    The module that makes it has `own` of that error when it runs alone; with None, no module ran
    alone.
    """
    taps = {}
    for path, kind in itertools.product(PATHS, ("input", "output")):
        tap = Tap(path, kind, "", 0, "NCHW", np.zeros((1, 3, 4, 5), np.float32))
        taps[tap.key] = tap
    trace = Trace({}, taps)
    function = _gaps(trace, 1, 1e-15)
    key = list(trace)[3]
    function[key] = Gap(function[key].l2 * worst, function[key].max * worst, peak=4.0)
    measured = Measured(
        trace.places(),
        floors=_gaps(trace, 0, 1e-15),
        function=function,
        reference32=_gaps(trace, 2, 1e-7),
        floors32=_gaps(trace, 3, 1e-8),
        executions={
            name: Precision(_gaps(trace, seed, 1e-7)) for seed, name in ((4, "eager"), (5, "xla"))
        },
        tensors_converted=12,
        returned_sha256="ab" * 32,
        effects={"eager": {"same program": 0.0}, "xla": {"production": 1e-8}},
    )
    further, places = [], ()
    if own is not None:
        gaps = {name: gap for name, gap in function.items() if ":output" in name}
        gaps[key] = Gap(1e-15 * max(own, 1.0), 9e-15 * max(own, 1.0), peak=4.0)
        alone = {
            name: function_verdict(name, gap, measured.floors[name]) for name, gap in gaps.items()
        }
        if not alone[key].passed:
            words = (f"{PATHS[1]}: own error [float64]", None)
            places = (Localisation(PATHS[1], "own", key, *words, (alone[key],)),)
        further.append(isolated_claim(alone, places, COMMAND))
    result = build_result(
        measured,
        places,
        About(
            COMMAND,
            inputs=[Input("synthetic 0", "4x5", "cd" * 32)],
            timings={"port, float64": 1.5},
            provenance=PROVENANCE,
            not_verified=("execution on a TPU",),
            stage=stage_of,
        ),
        further,
    )
    return result.to_json()


def training_step(loss: float = 2.5) -> dict[str, Any]:
    """A training step; the port's mask loss is `loss`, the reference's 2.5."""
    proof = Certificate(2, 1.25, 1.25, 1e-12, "float64", ())
    gradients = {
        key: gradient_verdict(key, Gap(2e-15, 8e-15), Gap(1e-15, 4e-15))
        for key in ("backbone.stem.conv1:param_grad", "criterion:grad_output")
    }
    claims = [
        claim(
            "train_matching",
            "Every target is matched to the same query",
            Matching([matching_place("final", [(3, 0), (7, 1)], {}, proof)]),
            "certified from dual variables",
            COMMAND,
        ),
        claim(
            "train_losses",
            "Every loss is the same in float64",
            Relative({"loss_ce": [1.5, 1.5], "loss_mask": [loss, 2.5]}, Multiple("loss_gap", 1)),
            "thousands of roundings",
            COMMAND,
        ),
        margin_claim("train_gradients", "Every gradient agrees", gradients, "its floor", COMMAND),
    ]
    result = StepResult(
        title="One training step of tiny",
        verdict=verdict_of(claims),
        config="tiny",
        size="64x96",
        claims=tuple(claims),
        timings={"training claims": 1.5},
        not_verified=("execution on a TPU",),
        provenance=PROVENANCE,
    )
    return result.to_json()


def evaluation() -> dict[str, Any]:
    """Both sides on 40 images, with group scores that follow from those of the classes."""
    result = evaluation_result()
    for side in result["sides"].values():
        rows = side["per_class"]
        for row in rows:
            row["pq"] = row["sq"] * row["rq"]
        side["miou"] = sum(row["iou"] for row in rows) / len(rows)
        for name, group in side["panoptic"].items():
            kinds = {"All": (True, False), "Things": (True,), "Stuff": (False,)}[name]
            members = [row for row in rows if row["isthing"] in kinds]
            for key in ("pq", "sq", "rq"):
                group[key] = sum(row[key] for row in members) / len(members)
    return result


def clean_audits(failed: tuple[str, ...] = ()) -> dict[str, Any]:
    """Three audits of a sound port; the last has the claims `failed` against it."""
    outcomes = [
        CleanOutcome(
            case=case,
            verdict="equal",
            failed=(),
            claims=10,
            float64=0.037,
            float32={case.execution: 1.6},
            seconds=8.5,
        )
        for case in clean.cases(3, "tiny", ("eager", "xla"), 0)
    ]
    if failed:
        outcomes[-1] = replace(outcomes[-1], verdict="different", failed=failed)
    return clean.result(outcomes, "parity faults clean --runs 3").to_json()


def execution() -> dict[str, Any]:
    """Two updates of two replicas, executed, with one planted mistake that was named."""
    command = "parity preflight --config tiny --execute --plant"
    losses = Relative({"loss_ce": [1.5, 1.5]}, Multiple("loss_gap", 1))
    planted = WrongReduction(
        id="share-lost", what="a share is lost", found_by=("losses",), cause="a share is lost"
    )
    claims = [
        *(
            claim(f"{rule}/losses", "Every loss is the same", losses, "its roundings", command)
            for rule in ("global", "ddp_mean")
        ),
        claim(PLANTED, "Planted mistakes are named", Findings(1, ()), "each is planted", command),
    ]
    result = ExecutionResult(
        verdict="holds",
        claims=tuple(claims),
        command=command,
        config="tiny",
        precision="float32",
        image_size=(64, 96),
        replicas=2,
        per_core_batch=1,
        steps=2,
        targets=8,
        rules=tuple(
            Rule(name=rule, beside=beside, verdict="holds", compile_seconds=9.5, run_seconds=1.5)
            for rule, beside in (("global", "one process"), ("ddp_mean", "two processes"))
        ),
        wrong_reductions=(planted,),
        provenance=PROVENANCE,
    )
    return result.to_json()


def timings() -> dict[str, Any]:
    """One figure that reaches its aim, one that was not measured, and one growth."""
    rounds = {"tf": (1.0, 1.5, 3.0), "torch": (2.0, 2.5, 4.0)}
    value = figure(rounds, "tf", ("torch",), larger=False)
    met = Row(
        name="forward",
        command="python -m benchmarks.forward",
        unit="x",
        of="tf",
        against=("torch",),
        aim=0.9,
        rounds=rounds,
        value=value,
        met=is_met(value, 0.9, larger=False),
    )
    result = TimingsResult(
        verdict="not all measured",
        command="make bench",
        machine=Machine("a processor", 2, 8 << 30, 0.5, 2400.0, 2),
        rows=(met, replace(met, rounds={}, value=None, met=None, reason="it was ended")),
        growth=(grown("images", (1, 2, 4), (1, 2, 4), (0.5, 0.9, 2.1)),),
        seconds=12.5,
        provenance=PROVENANCE,
    )
    return result.to_json()


def results() -> list[dict[str, Any]]:
    """One result of each kind, all equal."""
    return [audit(), training_step(), evaluation()]
