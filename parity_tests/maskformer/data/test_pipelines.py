"""PyTorch's loader and tf.data: given the same draws the same pixels, masks and classes."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest

import tf_impl  # noqa: F401  selects tf_keras before TensorFlow is imported
from maskformer.data.augmentation import Flip
from maskformer.data.batching import BatchPlan, choose_bucket
from maskformer.data.dataset_layout import open_split
from maskformer.data.mapper import pad_targets
from parity.errors import InputError
from parity_tests.maskformer.data.inputs_for_tests import SMALL_ADE20K, SMALL_COCO, SMALL_PANOPTIC
from tf_impl.dataset import TrainingData, advance_plan, difference, training_dataset
from tf_impl.storage.tfrecord import RecordFolder, write_records
from torch_reference import dataset as torch_dataset

BUCKETS = ((80, 128), (128, 80))
CASES = {
    "detr_panoptic": (SMALL_COCO, "coco", "train2017", BUCKETS),
    "mask_former_semantic": (SMALL_ADE20K, "ADEChallengeData2016", "training", ((64, 64),)),
    "mask_former_panoptic": (SMALL_PANOPTIC, "coco", "train2017", ((64, 64),)),
}
KEYS = ("sizes", "target_map", "class_ids", "valid", "overflow", "index")


@pytest.fixture(scope="module", params=CASES)
def sides(request, scenes: Path, tmp_path_factory) -> tuple:
    config, root, split, buckets = CASES[request.param]
    images = open_split(scenes / root, split)
    folder = tmp_path_factory.mktemp(request.param)
    write_records(images, folder, split, 2)
    return images, RecordFolder(folder), config, buckets


def _torch_batches(images, config, buckets, count: int, **options) -> list[dict]:
    data = torch_dataset.TrainingData(images, config, 3, 8)
    loader = torch_dataset.training_loader(data, batch_size=2, buckets=buckets, **options)
    return [{k: v.numpy() for k, v in batch.items()} for batch in islice(loader, count)]


def _tf_batches(records, config, buckets, count: int, exact: bool = True, **options) -> list[dict]:
    data = TrainingData(records, config, 3, 8, exact)
    dataset = training_dataset(data, batch_size=2, buckets=buckets, **options)
    return [{k: v.numpy() for k, v in batch.items()} for batch in dataset.take(count)]


def test_exact_batches_equal_torch(sides) -> None:
    images, records, config, buckets = sides
    ours = _tf_batches(records, config, buckets, 9)
    for wanted, found in zip(_torch_batches(images, config, buckets, 9), ours, strict=True):
        assert (wanted["images"].transpose(0, 2, 3, 1) == found["images"]).all()
        for key in KEYS:
            assert (wanted[key] == found[key]).all(), key


def test_fast_batches_have_the_same_targets_and_nearly_the_same_pixels(sides) -> None:
    _, records, config, _ = sides
    gap = difference(TrainingData(records, config, 3, 8), range(14))
    assert gap["largest"] <= 1, f"largest difference is {gap['largest']} levels, but should be 1"
    assert gap["targets"] == 0


def test_a_lost_flip_is_noticed(sides, monkeypatch: pytest.MonkeyPatch) -> None:
    images, records, config, buckets = sides
    original = TrainingData.steps_at

    def without_flip(self, position: int):
        index, steps = original(self, position)
        return index, tuple(step for step in steps if not isinstance(step, Flip))

    monkeypatch.setattr(TrainingData, "steps_at", without_flip)
    pairs = zip(
        _torch_batches(images, config, buckets, 9),
        _tf_batches(records, config, buckets, 9),
        strict=True,
    )
    assert any((a["target_map"] != b["target_map"]).any() for a, b in pairs)


@pytest.mark.parametrize("exact", [True, False])
def test_shapes_are_static_with_one_bucket(sides, exact: bool) -> None:
    _, records, config, _ = sides
    dataset = training_dataset(
        TrainingData(records, config, 3, 8, exact), batch_size=2, buckets=((128, 128),)
    )
    shapes = {key: tuple(spec.shape) for key, spec in dataset.element_spec.items()}
    assert shapes["images"] == (2, 128, 128, 3)
    assert shapes["target_map"] == (2, 128, 128)
    assert shapes["class_ids"] == shapes["valid"] == (2, 8)


def test_a_saved_state_continues_exactly(sides) -> None:
    images, records, config, buckets = sides
    whole = _tf_batches(records, config, buckets, 6, exact=False)
    data = TrainingData(records, config, 3, 8)
    state = advance_plan(data, batch_size=2, buckets=buckets, steps=3)
    rest = _tf_batches(records, config, buckets, 3, exact=False, state=state)
    for wanted, found in zip(whole[3:], rest, strict=True):
        assert all((wanted[key] == found[key]).all() for key in wanted)
    again = _torch_batches(images, config, buckets, 3, state=state)
    assert [b["index"].tolist() for b in again] == [b["index"].tolist() for b in rest]


def test_processes_share_a_batch_without_overlap(sides) -> None:
    _, records, config, buckets = sides
    whole = _tf_batches(records, config, buckets, 4)
    parts = [_tf_batches(records, config, buckets, 4, rank=r, world_size=2) for r in (0, 1)]
    for batch, first, second in zip(whole, *parts, strict=True):
        assert batch["index"].tolist() == [first["index"][0], second["index"][0]]


def test_loader_processes_change_nothing(sides) -> None:
    images, _, config, buckets = sides
    alone = _torch_batches(images, config, buckets, 3)
    helped = _torch_batches(images, config, buckets, 3, workers=1)
    for wanted, found in zip(alone, helped, strict=True):
        assert all((wanted[key] == found[key]).all() for key in wanted)


def test_wrong_records_for_a_mapper_are_named(sides) -> None:
    images, records, config, _ = sides
    other = SMALL_COCO if config.mapper == "mask_former_semantic" else SMALL_ADE20K
    with pytest.raises(InputError, match=r"records\n  inputs.mapper is"):
        TrainingData(records, other, 0, 8)
    with pytest.raises(InputError, match=r"records\n  inputs.mapper is"):
        torch_dataset.TrainingData(images, other, 0, 8)


def test_targets_without_a_place_are_counted_and_void() -> None:
    target_map = np.array([[0, 1, 2], [2, -1, 1]], np.int32)
    targets = pad_targets(target_map, np.array([4, 5, 6], np.int32), 2)
    assert targets.overflow == 1
    assert targets.class_ids.tolist() == [4, 5]
    assert targets.valid.tolist() == [True, True]
    assert targets.target_map.tolist() == [[0, 1, -1], [-1, -1, 1]]


def test_batches_hold_examples_of_one_bucket_and_lose_none() -> None:
    shapes = [(80, 100), (100, 80), (64, 64)]
    plan = BatchPlan(lambda p: shapes[p * 7 % 3], BUCKETS, 4)
    batches = list(islice(plan, 30))
    for batch in batches:
        assert {choose_bucket(*shapes[p * 7 % 3], BUCKETS) for p in batch.positions} == {
            batch.shape
        }
    seen = [p for batch in batches for p in batch.positions]
    waiting = [p for queue in plan.waiting.values() for p in queue]
    assert sorted(seen + waiting) == list(range(plan.position))


def test_an_example_that_fits_no_bucket_is_named() -> None:
    with pytest.raises(InputError, match="an example of 200x90"):
        choose_bucket(200, 90, BUCKETS)
