"""Results to report in the magnitudes of real ones; audits by the audit's own functions."""

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np

from maskformer.model.tensor_axes import stage_of
from parity.auditing.result import About, Input, Measured, Precision, build_result
from parity.localise import Localisation
from parity.metrics import Gap
from parity.provenance import provenance
from parity.trace import Tap, Trace
from parity_tests import golden_files

EXECUTIONS = ("eager", "graph", "xla")
CLASSES = (("person", True), ("car", True), ("sky", False))
COMMAND = "parity audit --config coco_r50 --weights seeded:7 --size 112x144 --batch 2"
MISTAKEN = "sem_seg_head.predictor.transformer.decoder.layers.3.norm2"
PROVENANCE = provenance(config="coco_r50", weights="seeded:7", reference="builtin")


def module_paths() -> list[str]:
    """The modules of COCO R50 that own a tensor, in state-dict order."""
    entries = golden_files.read_json("state_spec/coco_r50.json")["entries"]
    paths = dict.fromkeys(name.rpartition(".")[0] for name, *_ in entries)
    return [path for path in paths if path != "criterion"]


def audit_result() -> dict[str, Any]:
    """An audit that found no difference."""
    return _result(_measured())


def different_result() -> dict[str, Any]:
    """The same audit with a wrong epsilon in one LayerNorm: all that follows is off."""
    measured = _measured()
    keys = list(measured.places)
    edge = f"{MISTAKEN}:output"
    function = dict(measured.function)
    for key in keys[keys.index(edge) :]:
        function[key] = replace(function[key], l2=2.4e-7, max=2.9e-6)
    function[keys[-1]] = Gap(float("nan"), float("nan"))
    xla = dict(measured.executions["xla"].gaps)
    xla[keys[-2]] = replace(xla[keys[-2]], l2=133.7 * measured.reference32[keys[-2]].l2)
    measured.function, measured.executions["xla"] = function, Precision(xla)
    measured.missing = ["criterion:output"]
    evidence = f"{edge}: isolated gap 2.4e-7\n  its inputs agree"
    return _result(
        measured, Localisation(MISTAKEN, "own", edge, evidence, "epsilon 1e-6 instead of 1e-5", ())
    )


def _result(measured: Measured, *places: Localisation) -> dict[str, Any]:
    result = build_result(
        measured,
        places,
        About(
            COMMAND,
            inputs=[Input(f"{name}.jpg", "427x640", _digest(name)) for name in ("china", "flower")],
            timings={"reference, float64": 21.4, "port, float64": 24.0},
            provenance=PROVENANCE,
            not_verified=("losses, matching and gradients", "float32 on a TPU"),
            stage=stage_of,
        ),
    )
    return replace(result, title="Forward pass of coco_r50").to_json()


def _measured() -> Measured:
    """What an audit of every module of COCO R50 measures, drawn from a fixed seed."""
    random = np.random.default_rng(7)
    trace = Trace({}, {tap.key: tap for path in module_paths() for tap in _taps(path)})
    floors = {
        key: _gap(float(10 ** random.normal(-15, 0.15)) * (1 + depth / 20))
        for depth, key in enumerate(trace)
    }
    function = {
        key: _gap(0.0 if random.random() < 0.025 else floor.l2 * random.lognormal(0, 0.5))
        for key, floor in floors.items()
    }
    reference32 = {key: _gap(3e-7) for key in trace}
    executions = {
        name: Precision(
            {
                key: _gap(3e-7 * random.lognormal(0, 0.15), (1, int(random.integers(2, 40)), 310))
                for key in trace
            }
        )
        for name in EXECUTIONS
    }
    return Measured(
        trace.places(),
        floors,
        function,
        reference32=reference32,
        floors32={key: _gap(1e-7) for key in trace},
        executions=executions,
        tensors_converted=len(module_paths()),
        returned_sha256=_digest("weights"),
        effects={name: {"same program": 0.0} for name in ("eager", "graph")},
    )


def _taps(path: str) -> tuple[Tap, Tap]:
    maps = "backbone" in path or "pixel" in path
    axes, shape = ("NCHW", (1, 256, 27, 40)) if maps else ("SNC", (100, 1, 256))
    array = np.broadcast_to(np.float32(0), shape)
    return Tap(path, "input", "", 0, axes, array), Tap(path, "output", "", 0, axes, array)


def _gap(l2: float, ulps: tuple[int, int, int] | None = None) -> Gap:
    return Gap(l2, 12 * l2, peak=4.0, rms=1.0, ulps=ulps)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _interval(low: float, value: float, high: float) -> dict[str, Any]:
    return {
        "low": low, "value": value, "high": high, "confidence": 0.95, "resamples": 2000,
        "images": 40, "seed": 0,
    }  # fmt: skip


def _side(shift: float) -> dict[str, Any]:
    groups = {"All": 0.41, "Things": 0.37, "Stuff": 0.47}
    return {
        "miou": 0.55 + shift,
        "miou_2021": 0.54,
        "fwiou": 0.61,
        "macc": 0.7,
        "pacc": 0.81,
        "panoptic": {
            group: {"pq": value + shift, "sq": 0.8, "rq": 0.5, "classes": 3}
            for group, value in groups.items()
        },
        "intervals": {
            "mIoU": _interval(0.52, 0.55 + shift, 0.58),
            "PQ All": _interval(0.38, 0.41 + shift, 0.44),
            "PQ Things": _interval(0.3, 0.37 + shift, 0.43),
            "PQ Stuff": {"reason": "only 1 image has stuff"},
        },
        "per_class": [
            {
                "id": i, "name": name, "isthing": thing, "iou": 0.5 + i / 10, "accuracy": 0.7,
                "pq": None if i == 2 else 0.3 + i / 10, "sq": 0.8, "rq": 0.4,
            }
            for i, (name, thing) in enumerate(CLASSES)
        ],
        "seconds": 12.5,
    }  # fmt: skip


def evaluation_result(verdict: str = "equal") -> dict[str, Any]:
    """Both sides on 40 images; two pixels of one image differ."""
    unexplained = 0 if verdict == "equal" else 2
    compared = {
        "difference": {"interval": _interval(-0.0004, 0.0002, 0.0007), "p_value": 0.61},
        "equivalence": {
            "holds": True, "margin": 0.001, "alpha": 0.05, "p_value": 0.003,
            "interval": _interval(-0.0003, 0.0002, 0.0006),
        },
    }  # fmt: skip
    return {
        "schema": "maskformer-replication/evaluation/1",
        "verdict": verdict,
        "config": "coco_r50",
        "config_sha256": "ab" * 32,
        "weights": "model.pkl",
        "weights_sha256": "cd" * 32,
        "data": "coco",
        "layout": "panoptic",
        "split": "val2017",
        "images": 40,
        "test_size": [800, 1333],
        "augmented": False,
        "sides": {"torch": _side(0.0), "tf": _side(0.0002)},
        "command": "parity evaluate --config coco_r50",
        "versions": {"torch": "2.13.0", "tensorflow": "2.20.0"},
        "comparison": {
            "of": "tf - torch",
            "images_that_differ": 1,
            "pixels": 12_288_000,
            "panoptic_pixels": 2,
            "label_pixels": 1,
            "segments": 0,
            "unexplained": unexplained,
            "disagreements": [
                {
                    "image": "139", "panoptic_pixels": 2, "label_pixels": 1, "segments": 0,
                    "unexplained": unexplained,
                }
            ],
            "agreement": {"mIoU": 0.9999, "PQ": 0.9998},
            "scores": {
                "PQ All": compared,
                "PQ Stuff": {
                    "difference": {"reason": "only 1 image"},
                    "equivalence": {"reason": "only 1 image"},
                },
                "mIoU": compared | {"equivalence": {"reason": "too few images"}},
            },
        },
        "pictures": ["worst/1_000000000139.png"],
        "seconds": 40.0,
    }  # fmt: skip
