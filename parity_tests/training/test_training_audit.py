"""The claims of `parity audit --train`, on the sound model and with a fault in the optimizer."""

import pytest

from maskformer import zoo
from maskformer.images import batch_images, synthetic_image
from replication.pair import load_weights
from replication.progress import Steps
from replication.training_audit import training_claims


def verdicts():
    entry = zoo.get("tiny")
    images, sizes = batch_images([synthetic_image(64, 64, 0)], entry.model)
    weights = load_weights("seeded:0", entry.model)
    quiet = Steps(total=4, quiet=True)
    claims = training_claims(entry.model, entry.solver, weights, images, sizes, "test", quiet)
    return {claim["id"]: claim["verdict"] for claim in claims}


@pytest.mark.slow
def test_every_claim_holds_for_the_sound_model():
    assert set(verdicts().values()) == {"holds"}


def test_decay_on_norms_is_detected(monkeypatch):
    import tf_impl.optimizer

    def decayed(kind, path, solver):
        lr, _ = tf_impl.optimizer.parameter_group.original(kind, path, solver)
        return lr, solver.weight_decay

    decayed.original = tf_impl.optimizer.parameter_group
    monkeypatch.setattr(tf_impl.optimizer, "parameter_group", decayed)
    found = verdicts()
    assert found.pop("train_update") == "fails"
    assert set(found.values()) == {"holds"}
