"""`torch.compile` as an execution: every tap, as it is when it is met, and what is refused."""

import shutil

import numpy as np
import pytest
import torch
from torch import nn

import parity
from parity.auditing.options import Options
from parity.audits import audit_with
from parity.errors import InputError
from parity.frameworks.torch import framework
from parity.frameworks.torch.weights import vary
from parity.steps import Steps
from parity.trace import TraceError

pytestmark = pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "c++", "clang++"))), reason="Inductor needs a C++ compiler"
)
X = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
BOTH = ("eager", "compile")


class Model(nn.Module):
    """Changes what its first layer returns in place, after it was returned."""

    def __init__(self, epsilon: float = 1e-5) -> None:
        super().__init__()
        self.inner, self.norm = nn.Linear(6, 8), nn.LayerNorm(8, epsilon)
        self.outer = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        y = self.inner(x)
        y.mul_(2.0)
        return {"logits": self.outer(self.norm(nn.functional.gelu(y)))}


def reference() -> Model:
    torch.manual_seed(0)
    return vary(Model().eval())


def audited(epsilon: float = 1e-5, **settings):
    pair = parity.Pair(reference(), lambda: Model(epsilon).eval(), (X,))
    return audit_with(pair, Options(BOTH, **settings), Steps(quiet=True))


def test_a_compiled_port_is_equal_at_every_tap():
    result = audited(capture_effect=True)
    assert (result.verdict, tuple(result.float32)) == ("equal", BOTH)
    claims = {one.id: one for one in result.claims}
    assert claims["same_precision_compile"].cases == claims["same_precision_eager"].cases
    # What is captured is what `torch.compile` makes of the model itself.
    assert claims["production_compile"].holds


def test_a_compiled_port_with_a_fault_is_not():
    """The twin of the one above."""
    failing = {one.id for one in audited(1e-3).failing}
    assert {"same_precision_compile", "same_precision_eager"} <= failing


def test_taps_of_a_program_are_those_of_eager_execution():
    model = reference()
    traces = {}
    for execution in BOTH:
        recorder = framework.recorder(model, lambda path, kind, name, rank: "NX"[:rank], execution)
        outputs, traces[execution] = recorder((X,))
        np.testing.assert_allclose(outputs["logits"], traces[execution]["outer:output"].array)
    eager, compiled = traces.values()
    assert list(eager) == list(compiled)
    for key, tap in eager.items():
        np.testing.assert_allclose(compiled[key].array, tap.array, rtol=1e-5, atol=1e-6)
        assert compiled[key].same_as == tap.same_as
    # Before it was changed in place.
    made = model.inner(torch.from_numpy(X)).detach().numpy()
    np.testing.assert_allclose(compiled["inner:output"].array, made, rtol=1e-5, atol=1e-6)


class Branching(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if float(x.sum().item()) > 0 else -x


def test_a_model_that_cannot_be_traced_is_told():
    recorder = framework.recorder(
        Branching(), lambda path, kind, name, rank: "NX"[:rank], "compile"
    )
    with pytest.raises(TraceError, match="the model cannot be traced by PyTorch"):
        recorder((X,))


def test_a_model_that_is_compiled_already_is_told_of_the_execution():
    pair = parity.Pair(reference(), torch.compile(reference()), (X,))
    with pytest.raises(InputError, match="among `executions`, `compile` compiles it"):
        parity.audit(pair, quiet=True)
