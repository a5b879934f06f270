"""`parity audit --pair FILE.py:pair --train`: what is called `training` beside the pair."""

import textwrap

PAIR = """
    import numpy as np
    import torch

    import parity

    torch.manual_seed(0)
    x = np.random.default_rng(0).normal(size=(4, 3)).astype("float32")
    names, weights = parity.Names(), parity.Weights()


    def linear():
        return torch.nn.Linear(3, 2).eval()


    def sgd(parameters):
        return torch.optim.SGD(parameters, 0.1)


    loss = torch.nn.functional.cross_entropy
    pair = parity.Pair(linear(), linear, (x,), names=names, weights=weights)
"""
TRAINING = """
    training = parity.Training(
        (np.array([0, 1, 1, 0]),), loss, lambda *given: {port}, sgd, sgd
    )
"""


def written(tmp_path, port: str | None):
    path = tmp_path / "compare.py"
    training = "" if port is None else TRAINING.format(port=port)
    path.write_text(textwrap.dedent(PAIR) + textwrap.dedent(training))
    return f"{path}:pair"


def test_both_train_alike(tmp_path, parity):
    status, out, err = parity("audit", "--pair", written(tmp_path, "loss(*given)"), "--train")
    assert status == 0, out + err


def test_another_loss_is_named(tmp_path, parity):
    source = written(tmp_path, "loss(*given, reduction='sum')")
    status, out, err = parity("audit", "--pair", source, "--train")
    assert status == 1, out + err
    assert "likely: cross_entropy: a sum instead of a mean" in out
    status, out, err = parity("audit", "--pair", source)
    assert status == 0, out + err


def test_a_pair_without_a_training_is_refused(tmp_path, parity):
    status, _, err = parity("audit", "--pair", written(tmp_path, None), "--train")
    assert status == 2
    assert "has no `training`" in err
