"""Scenes of 64 pixels, and the small config under its own name."""

from pathlib import Path

import pytest

from maskformer.model import zoo
from maskformer.scenes.scenes import write_scenes
from parity_tests.implementations.trainer import small as runs


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six training and two validation images."""
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, 8, seed=3, size=64, val_share=0.25)
    return folder


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> zoo.Entry:
    """`parity_tests.implementations.trainer.small.entry` in place of `scenes_tiny`."""
    entry = runs.entry()
    monkeypatch.setitem(zoo.ENTRIES, runs.NAME, entry)
    return entry


@pytest.fixture
def determinism():
    """Puts back what a training fixes for its process."""
    import torch

    threads, fill = torch.get_num_threads(), torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = fill
    torch.set_num_threads(threads)
