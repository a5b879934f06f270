"""Results to report, in the shape and the magnitudes of real ones; audits from a fixed seed."""

import copy
import hashlib
from typing import Any

import numpy as np

from parity_tests import golden_files

EXECUTIONS = ("eager", "graph", "xla")
RATIO_LIMIT = 4.0
CLASSES = (("person", True), ("car", True), ("sky", False))


def stage_of(path: str) -> str:
    for part, stage in (
        ("backbone", "backbone"),
        ("pixel_decoder", "pixel_decoder"),
        ("class_embed", "heads"),
        ("mask_embed", "heads"),
        ("predictor", "transformer"),
    ):
        if part in path:
            return stage
    return "input"


def module_paths() -> list[str]:
    """The modules of COCO R50 that own a tensor, in state-dict order."""
    entries = golden_files.read_json("state_spec/coco_r50.json")["entries"]
    paths = dict.fromkeys(name.rpartition(".")[0] for name, *_ in entries)
    return [path for path in paths if path != "criterion"]


def audit_result() -> dict[str, Any]:
    """An audit that found no difference."""
    random = np.random.default_rng(7)
    layers = []
    for path in module_paths():
        for kind in ("input", "output"):
            layers.append(_layer(path, kind, 1 + len(layers) / 20, random))
    worst = max(layers, key=lambda layer: layer["float64"]["ratio"])
    return {
        "schema": "maskformer-replication/audit/1",
        "title": "Forward pass of coco_r50",
        "verdict": "equal",
        "taps": len(layers),
        "unpaired": {"reference": [], "port": []},
        "float64": {
            "worst_gap": worst["float64"]["gap"],
            "limit": worst["float64"]["limit"],
            "worst_tap": worst["key"],
            "worst_ratio": worst["float64"]["ratio"],
        },
        "float32": {name: _summary(layers, name) for name in EXECUTIONS},
        "first_divergence": None,
        "localisation": None,
        "claims": _claims(layers),
        "layers": layers,
        "capture_effect": {"eager": "bit-identical", "graph": "bit-identical", "xla": 3.2e-7},
        "inputs": [
            {"name": "china.jpg", "size": [427, 640], "sha256": _digest("china")},
            {"name": "flower.jpg", "size": [427, 640], "sha256": _digest("flower")},
        ],
        "timings": {"reference": {"float64": 21.4, "float32": 9.8}, "port": {"float64": 24.0}},
        "not_verified": ["Losses, matching and gradients.", "Float32 on a TPU."],
        "provenance": {
            "command": "parity audit --config coco_r50 --weights seeded:7 --size 112x144 --json",
            "config_sha256": _digest("config"),
            "reference": {"framework": "torch 2.13.0", "threads": 2, "python": "3.11.7"},
            "port": {"framework": "tensorflow 2.20.0", "threads": 2, "python": "3.11.7"},
        },
    }


def different_result() -> dict[str, Any]:
    """The same audit with a wrong epsilon in one LayerNorm: all that follows is off."""
    result = copy.deepcopy(audit_result())
    path = "sem_seg_head.predictor.transformer.decoder.layers.3.norm2"
    layers = result["layers"]
    start = next(i for i, layer in enumerate(layers) if layer["key"] == f"{path}:output")
    for layer in layers[start:]:
        judged = layer["float64"]
        judged["gap"] = 2.4e-7
        judged["ratio"] = judged["gap"] / judged["limit"]
        judged["passed"] = False
    layers[-1]["float64"] |= {"gap": float("nan"), "gap_max": float("nan"), "ratio": float("nan")}
    broken = layers[-2]["float32"]["xla"]
    broken |= {"ratio": 133.7, "passed": False}
    result |= {
        "verdict": "different",
        "first_divergence": f"{path}:output",
        "localisation": {
            "path": path,
            "kind": "own",
            "edge": None,
            "evidence": {"isolated gap": 2.4e-7, "limit": layers[start]["float64"]["limit"]},
            "cause": "epsilon 1e-6 instead of 1e-5",
        },
        "unpaired": {"reference": ["criterion:output"], "port": []},
    }
    result["float64"] |= {
        "worst_gap": 2.4e-7,
        "limit": layers[start]["float64"]["limit"],
        "worst_tap": layers[start]["key"],
        "worst_ratio": layers[start]["float64"]["ratio"],
    }
    result["float32"]["xla"] = {**_summary(layers, "xla"), "worst_tap": layers[-2]["key"]}
    result["claims"][0] |= {"verdict": "fails", "value": 2.4e-7}
    return result


def _layer(path: str, kind: str, depth: float, random: np.random.Generator) -> dict[str, Any]:
    floor = float(10 ** random.normal(-15, 0.15)) * depth
    gap = 0.0 if kind == "input" and random.random() < 0.05 else floor * random.lognormal(0, 0.5)
    limit = 32 * floor
    shape = [1, 256, 27, 40] if "backbone" in path or "pixel" in path else [100, 1, 256]
    return {
        "key": f"{path}:{kind}",
        "path": path,
        "kind": kind,
        "stage": stage_of(path),
        "axes": "NCHW" if len(shape) == 4 else "SNC",
        "shape": shape,
        "float64": {
            "gap": gap,
            "gap_max": 12 * gap,
            "floor": floor,
            "limit": limit,
            "ratio": gap / limit,
            "passed": True,
        },
        "float32": {
            name: {
                "ratio": float(random.lognormal(0, 0.15)),
                "e_port": 3e-7,
                "e_ref": 3e-7,
                "ulp50": 0.5,
                "ulp99": float(random.integers(1, 40)),
                "passed": True,
            }
            for name in EXECUTIONS
        },
    }


def _summary(layers: list[dict[str, Any]], execution: str) -> dict[str, Any]:
    worst = max(layers, key=lambda layer: layer["float32"][execution]["ratio"])
    return {
        "worst_ratio": worst["float32"][execution]["ratio"],
        "limit": RATIO_LIMIT,
        "worst_tap": worst["key"],
        "ulp": {"p50": 0.5, "p99": 12.0, "max": 310.0},
    }


def _claims(layers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    worst = max((layer["float64"] for layer in layers), key=lambda judged: judged["ratio"])
    command = "parity audit --config coco_r50 --weights seeded:7 --size 112x144 --batch 2"
    return [
        {
            "id": "float64",
            "title": "Same function: every tensor agrees in float64",
            "verdict": "holds",
            "value": worst["gap"],
            "limit": worst["limit"],
            "cases": len(layers),
            "derivation": "32 times the reference's own gap when inputs and weights move by 1 ulp "
            "and its sums are reordered; never above 1e-9",
            "evidence_sha256": _digest("float64"),
            "command": command,
        },
        {
            "id": "float32",
            "title": "Same precision: float32 error no larger than the reference's own",
            "verdict": "holds",
            "value": 1.62,
            "limit": RATIO_LIMIT,
            "cases": 3 * len(layers),
            "derivation": "error against float64, divided by the reference's float32 error",
            "evidence_sha256": _digest("float32"),
            "command": command,
        },
        {
            "id": "gradients",
            "title": "Same gradients",
            "verdict": "not run",
            "value": None,
            "limit": None,
            "cases": 0,
            "derivation": "vector-Jacobian products with the reference's output gradients",
            "evidence_sha256": None,
            "command": "parity audit --grads",
        },
    ]


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
        "macc": 0.66,
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
