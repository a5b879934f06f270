"""The guide to a user's own data: its commands, in order, on a small set that is no scenes."""

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskformer.model.detectron2_config import entry_of
from parity_tests.docs.documents import commands_in, text_of
from parity_tests.replication.commands.test_options import SMALL
from parity_tests.weight_conversion.samples import as_torch, write_torch
from replication.sides.weights import load_weights

COLOURS = {1: (200, 40, 40), 2: (40, 180, 60), 7: (230, 220, 60)}
NAMES = {1: "nut", 2: "bolt", 7: "washer"}


def made(folder: Path, split: str, count: int, seed: int) -> None:
    """Photographs of coloured pieces, and instances with polygons and run lengths."""
    rng = np.random.default_rng(seed)
    photographs = folder / "photos" / split
    photographs.mkdir(parents=True)
    images, annotations = [], []
    for number in range(count):
        pixels = rng.integers(90, 120, (96, 128, 3)).astype(np.uint8)
        images.append({"id": number, "file_name": f"{number}.jpg", "height": 96, "width": 128})
        for category, colour in COLOURS.items():
            top, left = int(rng.integers(0, 60)), int(rng.integers(0, 90))
            pixels[top : top + 30, left : left + 36] = colour
            corners = [left, top, left + 36, top, left + 36, top + 30, left, top + 30]
            mask = np.zeros((96, 128), bool)
            mask[top : top + 30, left : left + 36] = True
            flat = mask.reshape(-1, order="F")
            changes = np.flatnonzero(np.diff(flat)) + 1
            counts = np.diff([0, *changes, flat.size]).tolist()
            runs = {"size": [96, 128], "counts": [0, *counts] if flat[0] else counts}
            annotations.append(
                {
                    "id": len(annotations),
                    "image_id": number,
                    "category_id": category,
                    "segmentation": runs if category == 2 else [corners],
                    "area": 1080.0,
                    "iscrowd": 0,
                }
            )
        Image.fromarray(pixels).save(photographs / f"{number}.jpg")
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for i, name in NAMES.items()],
    }
    (folder / f"{split}.json").write_text(json.dumps(content))


def test_the_guide_s_commands_run_in_order(tmp_path, monkeypatch, parity) -> None:
    made(tmp_path, "train", 3, 1)
    made(tmp_path, "val", 2, 2)
    monkeypatch.chdir(tmp_path)
    for command in commands_in(text_of("docs/own_data.md")):
        program, *words = shlex.split(command)
        assert program == "parity"
        status, out, err = parity(*words)
        # so short a training says nothing of both sides' scores
        assert status in ((0, 1) if words[0] in ("train", "evaluate") else (0,)), out + err
    own = json.loads((tmp_path / "runs" / "tuned" / "own_config.json").read_text())
    assert [one["name"] for one in own["classes"]] == list(NAMES.values())
    assert (tmp_path / "runs" / "tuned_scores" / "report.html").is_file()
    assert "nut" in (tmp_path / "runs" / "tuned_scores" / "report.md").read_text()


@pytest.mark.slow
def test_three_own_classes_are_trained_from_a_converted_checkpoint_of_133(
    tmp_path, monkeypatch, parity
) -> None:
    """Converted, trained on both sides, what was trained evaluated on both, reported, verified."""
    made(tmp_path, "train", 3, 1)
    made(tmp_path, "val", 2, 2)
    monkeypatch.chdir(tmp_path)
    mapper = "INPUT:\n  DATASET_MAPPER_NAME: mask_former_panoptic"
    Path("small.yaml").write_text((SMALL % 133).replace("INPUT:", mapper))
    published = load_weights("seeded:5", entry_of(str(Path("small.yaml").resolve())).model).state
    write_torch(Path("c.pth"), {"model": as_torch({k: v.copy() for k, v in published.items()})})
    told = {}
    for line in (
        "data convert photos/train mine --instances train.json --split train",
        "data convert photos/val mine --instances val.json --split val",
        "convert c.pth converted --to tf --config-file small.yaml",
        "train --side both --config-file small.yaml --classes data --data mine --initial converted "
        "--steps 2 --batch 1 --out tuned",
        "evaluate --config-file tuned/own_config.json --data mine --side both --out scored "
        "--weights tuned/torch/checkpoints/step_000000002/model.safetensors",
        "report tuned scored --out page",
        "verify page",
    ):
        status, out, err = parity(*line.split())
        verb = line.split()[0]
        # so short a training says nothing of both sides' scores
        assert status in ((0, 1) if verb in ("train", "evaluate", "report") else (0,)), out + err
        told[verb] = out + err
    for name in ("class_embed.weight", "class_embed.bias", "empty_weight"):
        assert f"{name} (" in told["train"]
    assert "of another number of classes" in told["train"]
    story = Path("page", "report.md").read_text()
    for name in (*NAMES.values(), "Training runs"):
        assert name in story
    assert "verified: every file is what the evidence says" in told["verify"]
