"""A framework stands behind one protocol: others can be added, and either side can be of any."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from parity.auditing.options import Options
from parity.auditing.pair import InDtype, Pair
from parity.audits import audit, audit_with
from parity.errors import InputError
from parity.frameworks import registry
from parity.frameworks.torch.weights import vary
from parity.names import Names
from parity.steps import Steps
from parity.weights import Weights
from parity_tests.parity import numpy_side

IMAGES = np.random.default_rng(3).normal(size=(4, 5, 6)).astype(np.float32)


@pytest.fixture
def known(monkeypatch):
    """The framework of NumPy functions is registered during the test."""
    monkeypatch.setattr(registry, "ENTRIES", dict(registry.ENTRIES))
    registry.register(numpy_side.ENTRY)


def of_numpy(**changes) -> Pair:
    """A model beside another with other weights, to which those of the first are given."""
    return Pair(numpy_side.Model(0), lambda: numpy_side.Model(9, **changes), (IMAGES,))


def test_a_pair_of_an_added_framework_is_equal(known):
    result = audit(of_numpy(), isolate=True, quiet=True)
    assert result.verdict == "equal"
    assert list(result.float32) == ["eager"]
    claims = {one.id: one for one in result.claims}
    assert claims["weights"].cases == 10
    assert set(claims) >= {"pairing", "same_function", "isolated_function", "same_precision_eager"}
    assert result.taps == 2 * 9


def test_a_fault_in_an_added_framework_is_found_and_placed(known):
    result = audit(of_numpy(epsilon=1e-4), quiet=True)
    assert result.verdict == "different"
    assert [(one.path, one.kind) for one in result.localisations] == [("second.norm", "own")]
    assert result.localisation.cause is None  # it plants no mistakes


def test_weights_of_an_added_framework_that_do_not_fit_are_listed(known):
    pair = Pair(
        numpy_side.Model(),
        lambda: numpy_side.Block(6, 0),
        (IMAGES,),
        names=Names(),
        weights=Weights(),
    )
    with pytest.raises(InputError, match="weights of the two models do not match: 15 places"):
        audit(pair, quiet=True)


def test_options_reach_an_added_framework(known):
    options = Options(only="first", capture_effect=True, decided=lambda tap: tap.path == "first")
    result = audit_with(of_numpy(), options, Steps(quiet=True))
    assert result.verdict == "equal"
    assert {row.path.partition(".")[0] for row in result.layers} == {"first"}
    assert {"capture_eager", "same_decisions_eager"} <= {one.id for one in result.claims}
    with pytest.raises(InputError, match="give a module path such as first"):
        audit_with(of_numpy(), Options(only="third"), Steps(quiet=True))


def test_an_audit_of_an_added_framework_loads_no_other():
    program = (
        "import sys; from parity.audits import audit\n"
        "from parity.auditing.pair import Pair; from parity.frameworks import registry\n"
        "from parity_tests.parity import numpy_side; import numpy as np\n"
        "registry.register(numpy_side.ENTRY)\n"
        "pair = Pair(numpy_side.Model(), numpy_side.Model, (np.ones((2, 6), np.float32),))\n"
        "print(audit(pair, quiet=True).verdict, "
        "sorted({'torch', 'tensorflow', 'tf_keras', 'jax'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (run.stdout.strip(), run.returncode) == ("equal []", 0), run.stderr


def test_a_model_that_nobody_recognises_is_told_what_is_known():
    with pytest.raises(InputError) as caught:
        registry.of(numpy_side.Model())
    fact, evidence, action = str(caught.value).splitlines()
    assert fact == ("a parity_tests.parity.numpy_side.Model is no model of a known framework")
    assert "PyTorch (torch.nn.modules.module.Module), TensorFlow" in evidence
    assert evidence.endswith("; installed: Keras 3, Flax nnx, Flax linen, PyTorch, TensorFlow")
    assert action == "  give a model of one of these, or a function that builds one"


def perceptron(activation: nn.Module) -> nn.Sequential:
    torch.manual_seed(1)
    return vary(nn.Sequential(nn.Linear(6, 8), activation, nn.Linear(8, 3)).eval(), 1)


def test_both_sides_may_be_of_pytorch():
    pair = Pair(
        perceptron(nn.GELU()),
        lambda: nn.Sequential(nn.Linear(6, 8), nn.GELU("tanh"), nn.Linear(8, 3)).eval(),
        (IMAGES,),
    )
    result = audit(pair, quiet=True)
    assert [one.path for one in result.localisations] == ["1"]
    assert "gelu" in result.localisation.cause
    given = Pair(perceptron(nn.GELU()), perceptron(nn.GELU()), (IMAGES,), names=Names())
    assert audit(given, quiet=True).verdict == "equal"


def test_a_builder_may_be_told_its_precision():
    def build(dtype: str) -> nn.Module:
        return perceptron(nn.ReLU()).to(getattr(torch, dtype))

    pair = Pair(InDtype(build), InDtype(build), (IMAGES,))
    result = audit(pair, quiet=True)
    assert (result.verdict, list(result.float32)) == ("equal", ["eager"])


def test_a_reference_that_is_built_is_built_once():
    made = []

    def build() -> nn.Module:
        made.append(perceptron(nn.ReLU()))
        return made[-1]

    assert audit(Pair(build, perceptron(nn.ReLU()), (IMAGES,)), quiet=True).verdict == "equal"
    assert len(made) == 1


def test_a_model_that_keeps_its_precision_is_given_as_what_builds_it():
    import tf_keras

    import tf_impl  # noqa: F401  (chooses the Keras of TensorFlow)

    def dense() -> tf_keras.Model:
        return tf_keras.Sequential([tf_keras.layers.Dense(3)])

    with pytest.raises(InputError, match="a Sequential of TensorFlow was given, not what builds"):
        audit(Pair(perceptron(nn.ReLU()), dense(), (IMAGES,)), quiet=True)
    result = audit(Pair(dense, nn.Sequential(nn.Linear(6, 3)), (IMAGES,)), quiet=True)
    assert result.verdict == "equal"
