"""The seeded weights have the golden values."""

import numpy as np
import pytest

from maskformer.model.seeded import MODEL_CONSTANTS, digest, seeded_state, seeded_tensor
from parity_tests import golden_files

DIGESTS = golden_files.read_json("seeded_digests.json")


def spec(config: str) -> list:
    return golden_files.read_json(f"state_spec/{config}.json")["entries"]


@pytest.mark.parametrize("config", ["tiny", "coco_swin_tiny"])
def test_seeded_state_has_the_golden_digests(config: str) -> None:
    state = seeded_state(spec(config), seed=0)
    found = {name: digest(tensor)[:16] for name, tensor in state.items()}
    golden = {name: value for name, value in DIGESTS[config].items() if value is not None}
    wrong = [name for name in golden if found.get(name) != golden[name]]
    assert not wrong, f"digest of {wrong} differs, but should equal the golden one [{config}]"
    assert list(found) == list(golden)


def test_seeded_tensor_digest_detects_another_seed_and_another_name() -> None:
    name, shape = "backbone.stem.conv1.weight", (64, 3, 7, 7)
    golden = DIGESTS["coco_r50"][name]
    assert digest(seeded_tensor(name, shape, 0))[:16] == golden
    assert digest(seeded_tensor(name, shape, 1))[:16] != golden
    assert digest(seeded_tensor("backbone.stem.conv2.weight", shape, 0))[:16] != golden


def test_seeded_tensor_leaves_the_constants_of_a_model_alone() -> None:
    for leaf in MODEL_CONSTANTS:
        assert seeded_tensor(f"module.{leaf}", (3,)) is None


def test_seeded_tensor_refuses_a_kind_it_does_not_know() -> None:
    with pytest.raises(KeyError, match=r"no seeded rule for module\.mystery \[3, 4\]"):
        seeded_tensor("module.mystery", (3, 4))


def test_seeded_filters_sum_to_zero() -> None:
    tensor = seeded_tensor("sem_seg_head.pixel_decoder.layer_1.weight", (32, 16, 3, 3))
    sums = np.abs(tensor.astype(np.float64).sum(axis=(1, 2, 3)))
    # 144 float32 roundings of values below 1
    limit = 144 * np.finfo(np.float32).eps
    assert sums.max() < limit, f"sum of a filter is {sums.max():.1e}, but should be below {limit}"
