"""A small procedural data set, written once."""

from pathlib import Path

import pytest

from maskformer.scenes.scenes import write_scenes


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with `coco` and `ADEChallengeData2016`: 14 training and 2 validation images."""
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, 16, seed=4, size=128, val_share=0.125)
    return folder
