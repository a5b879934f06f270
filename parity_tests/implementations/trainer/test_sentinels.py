"""The sentinels are what `maskformer.runs.run_record` defines, also counted by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torch_reference.sentinels import sentinel_counts, sentinels


def by_hand(logits, masks, targets, indices):
    """The definitions, pair by pair, in numpy."""
    right, ious = [], []
    for b, (queries, matched) in enumerate(indices):
        for query, number in zip(queries.tolist(), matched.tolist(), strict=True):
            right.append(logits[b, query].argmax() == targets[b]["labels"][number])
            height, width = masks.shape[-2:]
            full = targets[b]["masks"][number].numpy()
            rows = np.arange(height) * full.shape[0] // height
            columns = np.arange(width) * full.shape[1] // width
            wanted, found = full[rows][:, columns], masks[b, query].numpy() > 0
            if wanted.any():
                ious.append((wanted & found).sum() / (wanted | found).sum())
    return {
        "matched_class_accuracy": np.mean(right) if right else math.nan,
        "no_object_rate": (logits.argmax(-1) == logits.shape[-1] - 1).double().mean().item(),
        "matched_iou": np.mean(ious) if ious else math.nan,
    }


def drawn(seed, images, targets):
    """Outputs of 6 queries and 3 classes, targets of twice the masks' size, and pairs."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(images, 6, 4, generator=generator)
    masks = torch.randn(images, 6, 5, 7, generator=generator)
    wanted, indices = [], []
    for _ in range(images):
        owner = torch.randint(0, targets + 2, (10, 14), generator=generator)
        numbers = torch.arange(targets)[:, None, None]
        labels = torch.randint(0, 3, (targets,), generator=generator)
        wanted.append({"labels": labels, "masks": owner == numbers})
        queries = torch.randperm(6, generator=generator)[:targets].sort().values
        indices.append((queries, torch.randperm(targets, generator=generator)))
    return logits, masks, wanted, indices


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), images=st.integers(1, 3), targets=st.integers(0, 5))
def test_counts_are_the_definitions(seed, images, targets):
    logits, masks, wanted, indices = drawn(seed, images, targets)
    outputs = {"pred_logits": logits, "pred_masks": masks}
    found = sentinels(sentinel_counts(outputs, wanted, indices))
    expected = by_hand(logits, masks, wanted, indices)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, nan_ok=True), name


def test_counts_of_replicas_add_up():
    logits, masks, wanted, indices = drawn(3, 2, 4)
    outputs = {"pred_logits": logits, "pred_masks": masks}
    parts = [
        sentinel_counts({k: v[b : b + 1] for k, v in outputs.items()}, [wanted[b]], [indices[b]])
        for b in range(2)
    ]
    together = sentinels(sentinel_counts(outputs, wanted, indices))
    assert sentinels(parts[0] + parts[1]) == pytest.approx(together)


def test_a_collapse_to_no_object_is_seen():
    logits, masks, wanted, indices = drawn(3, 2, 4)
    collapsed = logits.clone()
    collapsed[..., -1] = 100
    outputs = {"pred_logits": collapsed, "pred_masks": masks - 100}
    assert sentinels(sentinel_counts(outputs, wanted, indices)) == {
        "matched_class_accuracy": 0.0,
        "no_object_rate": 1.0,
        "matched_iou": 0.0,
    }
