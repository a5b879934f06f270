"""Six scenes, a model small enough to evaluate in a test, and the command line."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from maskformer.model import zoo
from maskformer.model.config import ResNetConfig
from maskformer.scenes.scenes import write_scenes

Parity = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with `coco` and `ADEChallengeData2016`: 1 training and 5 validation images."""
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, 6, seed=2, size=80, val_share=5 / 6)
    return folder


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> zoo.Entry:
    """`scenes_tiny` with a ResNet-18, one decoder layer and small images, under the same name.

    Low thresholds give even a model that is not trained several segments per image.
    """
    entry = zoo.get("scenes_tiny")
    model = entry.model.replace(
        backbone=ResNetConfig(depth=18, res2_out_channels=64),
        predictor={"num_queries": 12, "dec_layers": 1},
        inference={"object_mask_threshold": 0.3, "overlap_threshold": 0.1},
    )
    inputs = dataclasses.replace(
        entry.inputs, min_size_test=64, max_size_test=128, tta_min_sizes=(48, 64)
    )
    entry = dataclasses.replace(entry, model=model, inputs=inputs)
    monkeypatch.setitem(zoo.ENTRIES, "scenes_tiny", entry)
    return entry


@pytest.fixture
def semantic(small: zoo.Entry, monkeypatch: pytest.MonkeyPatch) -> zoo.Entry:
    """The small model as a semantic one."""
    model = small.model.replace(
        inference={"panoptic_on": False, "sem_seg_postprocess_before_inference": False}
    )
    entry = dataclasses.replace(small, model=model)
    monkeypatch.setitem(zoo.ENTRIES, "scenes_tiny", entry)
    return entry
