"""Audits of a port that is right, in many circumstances: every alarm they raise is a false one."""

import dataclasses
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from maskformer.model.config import ModelConfig, SwinConfig
from maskformer.model.detectron2_config import entry_of
from parity.claims import claim
from parity.measurements import Findings
from parity.reading.content import parse_json
from parity.records import plain, strict, typed
from replication.forward.run import PIXELS
from replication.process.fresh_process import begin, killed, work
from reports.chapters.clean import Case, CleanOutcome, CleanResult, upper_bound

NOTES = "clean.jsonl"
SIZES = ("64x96", "70x90", "97x131", "33x64", "128x96", "50x50", "64x64")
BATCHES = (1, 2)
THREADS = (1, 2)
ONEDNN = (True, False)
BACKBONES = ("own", "own", "swin")
TRAIN_EVERY = 10  # audits, of which one compares a training step as well
CASES_OF_A_PROCESS = 20  # so that what frameworks keep of models that are gone stays bounded
CONFIDENCE = 0.95
ODD = (
    "tiny", "coco_r101", "coco_swin_tiny", "ade20k_pp", "ade20k_ppplus", "ade20k_r101c",
    "ade20k_panoptic_r50", "cityscapes_r101c", "mapillary_r50", "scenes_tiny",
)  # fmt: skip
"""Configurations of audits in odd circumstances: every kind of backbone, decoder and head."""
ODD_SIZES = (*SIZES, "97x131,64x75", "59x83,90x41", "33x35")


def odd_cases(runs: int, executions: Sequence[str], first_seed: int) -> list[Case]:
    """The same in odd circumstances: weights scaled by 0.1 to 10 layer by layer in most audits,
    extreme images, several canvases, a training step in every tenth, of ten configurations that
    are as deep as usual and narrower."""
    pixels = ("drawn", *PIXELS)
    return [
        Case(
            config=ODD[(index + index // TRAIN_EVERY) % len(ODD)],
            backbone="narrow",
            seed=first_seed + index,
            size=ODD_SIZES[index * 3 % len(ODD_SIZES)],
            batch=1,
            execution=executions[index // 2 % len(executions)],
            threads=THREADS[index % len(THREADS)],
            onednn=ONEDNN[index // 4 % len(ONEDNN)],
            train=index % TRAIN_EVERY == TRAIN_EVERY - 1,
            weights="usual" if index % 4 == 2 else "scaled",
            pixels=pixels[index // 3 % len(pixels)],
        )
        for index in range(runs)
    ]


def narrow(model: ModelConfig) -> ModelConfig:
    """A configuration with all that it has, but few channels, queries and layers, for audits by the
    hundred; depths of a Swin keep a shifted block in every stage."""
    backbone = model.backbone
    if isinstance(backbone, SwinConfig):
        backbone = dataclasses.replace(
            backbone, embed_dim=16, num_heads=(2, 2, 4, 4), depths=(2, 2, 2, 2), window_size=5
        )
    elif backbone.depth > 50:
        backbone = dataclasses.replace(backbone, depth=50)
    decoder = {"conv_dim": 64, "mask_dim": 64}
    if model.pixel_decoder.transformer_enc_layers:
        decoder["transformer_enc_layers"] = 1
    return model.replace(
        backbone=backbone,
        pixel_decoder=decoder,
        predictor={
            "hidden_dim": 64,
            "nheads": 4,
            "dim_feedforward": 128,
            "dec_layers": 2,
            # Queries of a baseline are its classes.
            "num_queries": model.predictor.num_queries if model.is_per_pixel else 20,
        },
    )


def cases(runs: int, config: str, executions: Sequence[str], first_seed: int) -> list[Case]:
    """What each of `runs` audits is of; neighbours differ in everything.

    The counts of sizes, executions, batch sizes and the rest have no common factor with the
    strides, so that all their combinations come in turn.
    """
    return [
        Case(
            config=config,
            backbone=BACKBONES[index % len(BACKBONES)],
            seed=first_seed + index,
            size=SIZES[index % len(SIZES)],
            batch=BATCHES[index // 2 % len(BATCHES)],
            execution=executions[index // len(BACKBONES) % len(executions)],
            threads=THREADS[index % len(THREADS)],
            onednn=ONEDNN[index // 4 % len(ONEDNN)],
            train=index % TRAIN_EVERY == TRAIN_EVERY - 1,
        )
        for index in range(runs)
    ]


def run_cases(wanted: Sequence[Case], notes: Path | None, resume: bool) -> list[CleanOutcome]:
    """The outcome of every case, in order; those that the file `notes` has are not run again.

    Each outcome is noted and told on standard error when it is known.
    """
    known = _read(notes) if resume else {}
    if notes is not None:
        notes.parent.mkdir(parents=True, exist_ok=True)
        if not resume:
            notes.write_text("", encoding="utf-8")
    left = [case for case in wanted if case not in known]
    for outcome in _outcomes(left):
        known[outcome.case] = outcome
        if notes is not None:
            with notes.open("a", encoding="utf-8") as file:
                file.write(json.dumps(strict(plain(outcome))) + "\n")
        done = sum(case in known for case in wanted)
        print(f"[{done}/{len(wanted)}] {describe(outcome)}", file=sys.stderr, flush=True)
    return [known[case] for case in wanted]


def result(outcomes: Sequence[CleanOutcome], command: str) -> CleanResult:
    """The recorded result: how many alarms, the upper bound of their rate, and each audit."""
    from parity.provenance import provenance

    alarms = [one for one in outcomes if one.verdict == "different"]
    judged = claim(
        "false_alarms",
        f"{len(outcomes)} audits of a port that is right raise no alarm",
        Findings(len(outcomes), [describe(one) for one in alarms]),
        "audits of the sound port in which any claim fails, over seeds, image and batch sizes, "
        "threads, executions, backbones, with and without oneDNN and a training step; in odd "
        "circumstances also scaled weights and extreme images",
        command,
    )
    return CleanResult(
        verdict=judged.verdict,
        claims=(judged,),
        runs=len(outcomes),
        alarms=len(alarms),
        bound=upper_bound(len(alarms), len(outcomes), CONFIDENCE),
        confidence=CONFIDENCE,
        outcomes=tuple(outcomes),
        seconds=round(sum(one.seconds for one in outcomes), 1),
        command=command,
        provenance=provenance(),
    )


def describe(outcome: CleanOutcome) -> str:
    """One audit in a line."""
    case = outcome.case
    ratios = ", ".join(f"{name} {ratio:.2f}" for name, ratio in outcome.float32.items())
    backbone = "" if case.backbone == "own" else f", {case.backbone}"
    failed = ", ".join((*outcome.failed, *outcome.undecided))
    failed = f" ({failed})" if failed else ""
    odd = "" if case.backbone != "narrow" else f"{case.config}, {case.weights} weights, "
    odd += "" if case.pixels == "drawn" else f"{case.pixels} pixels, "
    return (
        f"{odd}seed {case.seed}{backbone}, {case.batch} x {case.size}, {case.execution}, "
        f"{case.threads} threads, oneDNN {'on' if case.onednn else 'off'}"
        f"{', training step' if case.train else ''}: {outcome.verdict}{failed}, "
        f"float64 at {outcome.float64:.2f} of its limit, float32 {ratios} of 4, "
        f"{outcome.seconds:.1f} s"
    )


def _read(notes: Path | None) -> dict[Case, CleanOutcome]:
    if notes is None or not notes.is_file():
        return {}
    known = {}
    for line in notes.read_text(encoding="utf-8").splitlines():
        try:
            outcome = typed(CleanOutcome, parse_json(line.encode(), str(notes)))
        except ValueError:  # the last line of a run that was ended while it wrote
            continue
        known[outcome.case] = outcome
    return known


def _outcomes(left: Sequence[Case]) -> Iterator[CleanOutcome]:
    """Runs cases in processes of their own: TensorFlow fixes its threads when it starts."""
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool
    from multiprocessing import get_context

    groups: dict[tuple[int, bool], list[Case]] = {}
    for case in left:
        groups.setdefault((case.threads, case.onednn), []).append(case)
    for same in groups.values():
        for first in range(0, len(same), CASES_OF_A_PROCESS):
            part = same[first : first + CASES_OF_A_PROCESS]
            with (
                _environment(part[0]),
                ProcessPoolExecutor(1, get_context("spawn"), initializer=begin) as pool,
            ):
                try:
                    # One at a time, so that an interruption loses no more than one.
                    for case in part:
                        with _held_back():  # the process starts here
                            future = pool.submit(work, _interruptible, case)
                        yield future.result()
                except BrokenProcessPool as error:
                    raise killed("a clean audit", "continue with --out and --resume") from error


@contextmanager
def _environment(case: Case) -> Iterator[None]:
    """oneDNN is on or off in processes that start within."""
    name = "TF_ENABLE_ONEDNN_OPTS"
    before = os.environ.get(name)
    os.environ[name] = str(int(case.onednn))
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


@contextmanager
def _held_back() -> Iterator[None]:
    """Ctrl-C waits until the context ends; for processes that start within, it goes on waiting."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _interruptible(case: Case) -> CleanOutcome:
    """One clean audit in a process that Ctrl-C ends without a traceback: between audits it is deaf,
    and within one the interruption is a result like another."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        return audit_once(case)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def audit_once(case: Case) -> CleanOutcome:
    """One clean audit in this process: the verdict, the claims that fail, and the margins."""
    from parity.steps import Steps
    from replication.faults.benches.registry import SWIN
    from replication.forward.run import Request, audit
    from replication.process.threads import set_threads

    begun = time.perf_counter()
    set_threads(case.threads)
    entry = entry_of(case.config)
    model = entry.model
    if case.backbone == "swin":
        model = dataclasses.replace(model, backbone=SWIN)
    if case.backbone == "narrow":
        model = narrow(model)
    request = Request(
        config=model,
        weights=f"seeded:{case.seed}" + (",scaled" if case.weights == "scaled" else ""),
        pixels=case.pixels,
        size=case.size,
        batch=case.batch,
        executions=(case.execution,),
        train=entry.solver if case.train else None,
        command="parity faults clean",
    )
    found = audit(request, Steps(total=0, quiet=True))
    nearest = found.float64.nearest_to_limit
    return CleanOutcome(
        case=case,
        verdict=found.verdict,
        failed=tuple(one.id for one in found.failing),
        undecided=tuple(one.id for one in found.claims if not (one.holds or one.fails)),
        claims=len(found.claims),
        float64=nearest.value / nearest.limit,
        float32={name: one.worst_ratio for name, one in found.float32.items()},
        seconds=round(time.perf_counter() - begun, 2),
    )
