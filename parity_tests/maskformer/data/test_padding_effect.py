"""What padded COCO batches change, measured: pixels that are padding, and outputs that move."""

from itertools import islice

import numpy as np
import torch

import torch_reference
from maskformer.data.augmentation import drawn_shape, example_generator
from maskformer.data.batching import COCO_BUCKETS, BatchPlan
from maskformer.data.images import batch_images
from maskformer.model import zoo
from maskformer.model.seeded import seeded_state
from parity_tests.maskformer.data.inputs_for_tests import COCO

SIZES = ((480, 640), (427, 640), (640, 480), (640, 427), (640, 640), (360, 640), (500, 375))
"""Height and width of most COCO photographs."""

EXAMPLES = 400


def shapes() -> list[tuple[int, int]]:
    """Height and width after the published draws."""
    return [
        drawn_shape(COCO, example_generator(0, 0, index), *SIZES[index % len(SIZES)])
        for index in range(EXAMPLES)
    ]


def padded_share(batches: list[tuple[tuple[int, int], list[tuple[int, int]]]]) -> float:
    """Share of padding in batches of (shape, shapes of the examples)."""
    whole = sum(height * width * len(members) for (height, width), members in batches)
    valid = sum(height * width for _, members in batches for height, width in members)
    return 1 - valid / whole


def by_bucket(size: int) -> list:
    """The batches of this project."""
    drawn = shapes()
    plan = BatchPlan(lambda position: drawn[position % EXAMPLES], COCO_BUCKETS, size)
    count = EXAMPLES // size // 2
    return [(b.shape, [drawn[p % EXAMPLES] for p in b.positions]) for b in islice(plan, count)]


def by_orientation(size: int) -> list:
    """The original's batches: the next images of one orientation, padded to multiples of 32."""
    queues: dict[bool, list] = {True: [], False: []}
    batches = []
    for shape in shapes():
        queue = queues[shape[1] > shape[0]]
        queue.append(shape)
        if len(queue) == size:
            largest = [-(-max(s[axis] for s in queue) // 32) * 32 for axis in (0, 1)]
            batches.append((tuple(largest), list(queue)))
            queue.clear()
    return batches


def test_the_share_of_padding_is_known() -> None:
    ours = {size: padded_share(by_bucket(size)) for size in (1, 2, 16)}
    theirs = {size: padded_share(by_orientation(size)) for size in (1, 2, 16)}
    for size in ours:
        print(f"batch {size}: {ours[size]:.1%} padding here, {theirs[size]:.1%} in the original")
    assert theirs[1] < 0.05, "one image per device has almost no padding"
    assert theirs[1] < ours[1] < 0.35
    assert max(ours.values()) - min(ours.values()) < 0.05, "buckets pad alike in any batch"
    assert theirs[16] > theirs[2] > theirs[1], "the original's padding grows with the batch"


def test_padding_changes_the_outputs_of_the_same_image() -> None:
    config = zoo.model_config("tiny")
    model = torch_reference.build(config).eval().double()
    spec = [(key, tuple(value.shape)) for key, value in model.state_dict().items()]
    weights = {key: torch.from_numpy(value) for key, value in seeded_state(spec, 0).items()}
    model.load_state_dict(weights, strict=False)
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    batch, sizes = batch_images([image], config)
    wider = np.zeros((1, 96, 128, 3), batch.dtype)
    wider[:, :64, :96] = batch[:, :64, :96]
    found = []
    for pixels in (batch, wider):
        images = torch.from_numpy(pixels.transpose(0, 3, 1, 2).astype(np.float64))
        with torch.no_grad():
            outputs = model(images, torch.from_numpy(np.asarray(sizes)))
        found.append(outputs["pred_masks"][..., :16, :24].numpy())
    plain, padded = found
    effect = float(np.linalg.norm(padded - plain) / np.linalg.norm(plain))
    print(f"mask logits move by {effect:.1%} (relative L2) in a batch that is half padding")
    assert effect > 1e-3, f"effect is {effect:.3g}, but should be above 0.001 [tiny, float64]"
