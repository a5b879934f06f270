"""The claims on a training step, where both sides are small PyTorch models."""

from dataclasses import replace
from functools import partial
from unittest import mock

import numpy as np
import pytest
import torch
from torch import nn

import parity
from parity.auditing.options import Options
from parity.auditing.reference import measure_reference
from parity.frameworks.torch.weights import vary
from parity.metrics import perturb_ulp
from parity.steps import Steps
from parity.training import step
from parity.training.sides import reference_side

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(6, 3, 5, 4)).astype(np.float32)
LABELS = np.array([0, 1, 2, 3, 1, 0])


class Net(nn.Module):
    """A convolution, batch statistics, dropout, two layers."""

    def __init__(self, momentum: float = 0.1, rate: float = 0.25) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8, momentum=momentum)
        self.drop = nn.Dropout(rate)
        self.hidden = nn.Linear(8, 6)
        self.head = nn.Linear(6, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.drop(torch.relu(self.norm(self.conv(images))))
        return self.head(torch.tanh(self.hidden(x.mean((2, 3)))))


class Stopped(Net):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.drop(torch.relu(self.norm(self.conv(images))))
        return self.head(torch.tanh(self.hidden(x.mean((2, 3)).detach())))


class Biased(nn.BatchNorm2d):
    """Keeps the variance that is divided by n."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        before = self.running_var.clone()
        found = super().forward(x)
        if self.training:
            variance = x.detach().var((0, 2, 3), unbiased=False)
            kept = (1 - self.momentum) * before + self.momentum * variance
            self.running_var.data.copy_(kept)
        return found


def reference() -> Net:
    torch.manual_seed(0)
    return vary(Net().eval())


def adamw(parameters):
    return torch.optim.AdamW(parameters, 1e-3, weight_decay=0.01)


def training(**changes) -> parity.Training:
    loss = nn.functional.cross_entropy
    return replace(parity.Training((LABELS,), loss, loss, adamw, adamw, steps=3), **changes)


def pair_of(port) -> parity.Pair:
    """The reference beside another of the same names."""
    return parity.Pair(reference, port, (IMAGES,), names=parity.Names(), weights=parity.Weights())


def audited(port, *, executions=(), **changes):
    """The claims on training that fail, by name."""
    pair = pair_of(port)
    result = parity.audit(pair, training=training(**changes), executions=executions, quiet=True)
    return {one.id: one for one in result.claims if one.id.startswith("train_")}


def failed(claims):
    return {name: one for name, one in claims.items() if not one.holds}


def test_equal_models_train_alike():
    claims = audited(lambda: Net().eval(), executions=None)
    assert failed(claims) == {}
    assert {"train_dropout", "train_buffers", "train_gradients_float32_eager"} <= set(claims)


def test_a_model_is_left_as_it_was():
    model = reference()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    pair = replace(pair_of(lambda: Net().eval()), reference=model)
    parity.audit(pair, training=training(), executions=(), quiet=True)
    assert not model.training
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_other_momentum_is_named_and_nothing_else_fails():
    found = failed(audited(lambda: Net(momentum=0.01).eval()))
    assert set(found) == {"train_buffers"}
    assert found["train_buffers"].place.part == "norm"
    assert found["train_buffers"].cause == "momentum 0.01 instead of 0.1"


def test_a_biased_variance_is_named():
    def port():
        model = Net()
        model.norm = Biased(8)
        return model.eval()

    found = failed(audited(port))
    assert found["train_buffers"].causes == (
        "the variance is biased: divided by n instead of n - 1",
    )


def test_another_dropout_rate_is_named():
    found = failed(audited(lambda: Net(rate=0.5).eval()))
    assert found["train_dropout"].place.part.startswith("drop")
    assert "keeps 0.5, but should keep 0.75" in found["train_dropout"].cause


def test_a_stopped_gradient_is_named():
    found = failed(audited(lambda: Stopped().eval()))
    assert "stopped" in found["train_gradients_pairing"].cause


def test_what_is_trained_in_the_port_only_is_named():
    frozen = reference()
    frozen.hidden.requires_grad_(False)
    pair = replace(pair_of(lambda: Net().eval()), reference=frozen)
    result = parity.audit(pair, training=training(steps=1), executions=(), quiet=True)
    (one,) = (one for one in result.claims if one.id == "train_gradients_pairing")
    assert one.place.part == "hidden"
    assert one.cause == "2 parameters are trained in the port, but not in the reference"


def test_statistics_of_wrong_inputs_are_inherited():
    def changed(model):
        with torch.no_grad():
            model.conv.bias.add_(0.1)

    pair = replace(pair_of(lambda: Net().eval()), after_loading=changed)
    result = parity.audit(pair, training=training(), executions=(), quiet=True)
    (buffers,) = (one for one in result.claims if one.id == "train_buffers")
    assert not buffers.holds
    assert buffers.place.inherited


@pytest.mark.parametrize(
    ("changes", "claim", "place", "cause"),
    [
        (
            {"port_loss": lambda x, y: nn.functional.cross_entropy(x, y, reduction="sum")},
            "train_losses_alone",
            "loss",
            "cross_entropy: a sum instead of a mean",
        ),
        (
            {"port_optimizer": lambda given: torch.optim.Adam(given, 1e-3, weight_decay=0.01)},
            "train_update",
            "optimizer",
            "the decay is added to the gradient",
        ),
        (
            {
                "schedule": lambda made: torch.optim.lr_scheduler.MultiStepLR(made, [2]),
                "turns": (2,),
            },
            "train_schedule",
            "schedule",
            "the schedule does not reach the optimizer",
        ),
    ],
    ids=["loss", "optimizer", "schedule"],
)
def test_a_mistake_has_a_place_and_a_cause(changes, claim, place, cause):
    found = failed(audited(lambda: Net().eval(), **changes))
    assert found[claim].place.part == place
    assert not found[claim].place.inherited
    assert found[claim].cause == cause
    assert all(one.place.inherited for name, one in found.items() if name.startswith("train_steps"))


def terms(logits, labels, entropy=1.0, size=1.0, passed=1.0):
    """A loss of two terms with a factor on each, and on the gradient of the second alone."""
    square = size * (logits**2).mean()
    square = passed * square + (1 - passed) * square.detach()
    return {"entropy": entropy * nn.functional.cross_entropy(logits, labels), "size": square}


@pytest.mark.parametrize(
    ("factors", "text"),
    [
        ({"size": 0.3}, "size is multiplied by 0.3"),
        ({"size": 0.0}, "size is left out"),
        ({"entropy": 0.4, "size": 2.5}, "entropy is multiplied by 0.4; size is multiplied by 2.5"),
        ({"passed": 2.0}, "the gradient has size 2 times"),
        ({"passed": 0.0}, "the gradient has size 0 times"),
    ],
)
def test_a_factor_is_of_a_term_unless_it_is_of_its_gradient_alone(factors, text):
    port_loss = partial(terms, **factors)
    found = failed(audited(lambda: Net().eval(), loss=terms, port_loss=port_loss))
    assert found["train_loss_gradient"].cause.endswith(text)
    assert ("train_losses_alone" in found) == ("passed" not in factors)


def test_a_term_that_the_port_does_not_have_is_left_out():
    def port_loss(logits, labels):
        return {"entropy": terms(logits, labels)["entropy"]}

    found = failed(audited(lambda: Net().eval(), loss=terms, port_loss=port_loss))
    assert found["train_losses_alone"].cause.endswith("size is left out")


def test_an_update_looks_for_the_tensors_of_a_model_only_where_a_gradient_is_lacking():
    measured = measure_reference(pair_of(reference), Options(executions=()), Steps(quiet=True))
    side = reference_side(measured, training(), "float64")
    optimizer, keys = side.optimizer(), side.parameters()
    gradients = {key: np.ones_like(value) for key, value in side.state(keys).items()}
    framework = side.built.framework
    with mock.patch.object(framework, "variables", wraps=framework.variables) as looked:
        side.update(optimizer, gradients)
    assert looked.call_count == 0


class Forgetful(torch.optim.AdamW):
    """Forgets its first moment, but only once it has made `UNSEEN` updates of one run."""

    def step(self, closure=None):
        for state in self.state.values():
            if state["step"] >= UNSEEN:
                state["exp_avg"].zero_()
        return super().step(closure)


UNSEEN = 4  # more than are made by given gradients


def test_what_only_many_updates_show_is_placed_at_its_update():
    optimizer = {"port_optimizer": lambda given: Forgetful(given, 1e-3, weight_decay=0.01)}
    found = failed(audited(lambda: Net().eval(), steps=7, **optimizer))
    assert {one.place.text for one in found.values()} == {f"train step: update, step {UNSEEN}"}
    assert found["train_steps_weight_gap"].step >= UNSEEN
    assert failed(audited(lambda: Net().eval(), steps=UNSEEN, **optimizer)) == {}


def test_other_decisions_are_named():
    found = failed(
        audited(
            lambda: Net().eval(),
            decisions=lambda logits, labels: logits.argmax(-1),
            port_decisions=lambda logits, labels: logits.argmin(-1),
        )
    )
    assert set(found) == {"train_decisions"}


class Packed(nn.Module):
    """Query, key and value in one matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(4, 12)
        self.head = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(attention(*self.qkv(x).split(4, -1)))


class Apart(nn.Module):
    """In three."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(4, 4) for _ in range(3))
        self.head = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(attention(self.query(x), self.key(x), self.value(x)))


def attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    return torch.softmax(query @ key.transpose(-1, -2), -1) @ value


@pytest.mark.parametrize("packed", [True, False], ids=["packed-reference", "packed-port"])
def test_gradients_of_joint_weights_are_compared(packed):
    names = [
        [f"{part}.{kind}" for part in ("query", "key", "value")] for kind in ("weight", "bias")
    ]
    whole = ["qkv.weight", "qkv.bias"]
    joints = [
        parity.Joint.packed(*(([one], apart) if packed else (apart, [one])))
        for one, apart in zip(whole, names, strict=True)
    ]
    sides = (Packed, Apart) if packed else (Apart, Packed)
    torch.manual_seed(0)
    model = vary(sides[0]().eval())
    x = RNG.normal(size=(2, 3, 4)).astype(np.float32)
    pair = parity.Pair(
        model,
        lambda: sides[1]().eval(),
        (x,),
        names=parity.Names({"head": "head"}),
        weights=parity.Weights(joints=joints),
    )

    def loss(outputs, targets):
        return {"squares": (outputs - targets).square().mean()}

    targets = (RNG.normal(size=(2, 3, 4)).astype(np.float32),)
    how = parity.Training(targets, loss, loss, adamw, adamw, steps=2)
    result = parity.audit(pair, training=how, executions=(), isolate=True, quiet=True)
    assert [one.failure for one in result.claims if not one.holds] == []
    (gradients,) = (one for one in result.claims if one.id == "train_gradients")
    assert gradients.cases > 4


class Padded(Apart):
    """The same, whose sums have one more term, which is zero."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query, key = (torch.nn.functional.pad(one(x), (1, 0)) for one in (self.query, self.key))
        return self.head(attention(query.flip(-1), key.flip(-1), self.value(x)))


class Halved(Apart):
    """What the query learns is halved."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query = self.query(x)
        query = (query + query.detach()) / 2
        return self.head(attention(query, self.key(x), self.value(x)))


def not_holding(x, side):
    """Verdicts of a port that attends as `side` does, beside `Apart`, by claim."""
    model = vary(Apart().eval())
    names, weights = parity.Names(), parity.Weights()
    pair = parity.Pair(model, lambda: side().eval(), (x,), names=names, weights=weights)
    loss = nn.functional.mse_loss
    how = parity.Training((np.zeros_like(x),), loss, loss, adamw, adamw, steps=1)
    result = parity.audit(pair, training=how, executions=(), isolate=True, quiet=True)
    return {one.id: one.verdict for one in result.claims if not one.holds}


def test_a_gradient_that_rounding_alone_moves_beyond_the_limit_is_not_decided():
    """Where all rows are nearly alike, what the attention learns from nearly cancels."""
    torch.manual_seed(0)
    drawn = RNG.normal(size=(2, 3, 4))
    alike, apart = ((base + size * drawn).astype(np.float32) for base, size in ((1, 1e-4), (0, 1)))
    drowned = dict.fromkeys(("train_gradients", "train_gradients_isolated"), "not decided")
    assert not_holding(alike, Padded) == drowned
    assert not_holding(apart, Padded) == {}
    assert not_holding(alike, Halved)["train_gradients"] == "fails"


@pytest.mark.parametrize("twins", [1, 4])
def test_a_twin_that_rounding_happens_not_to_move_is_no_alarm(monkeypatch, twins):
    """The twin: with the first alone, the sound port is said to stray."""
    first = len(list(Apart().parameters()))

    def moved(array, seed):
        return array.copy() if seed < first else perturb_ulp(array, seed)

    monkeypatch.setattr(step, "perturb_ulp", moved)
    monkeypatch.setattr(step, "TWINS", twins)
    torch.manual_seed(0)
    x = (1 + 1e-4 * RNG.normal(size=(2, 3, 4))).astype(np.float32)
    found = not_holding(x, Padded)
    assert ("train_steps_weight_gap" in found) == (twins == 1)
