"""The guide to a user's own data: its commands, in order, on a small set that is no scenes."""

import json
import shlex
from pathlib import Path

import numpy as np
from PIL import Image

from parity_tests.docs.documents import commands_in, text_of

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
