"""Both sides through the one type: neither is asked for anything by the name of its framework."""

import subprocess
import sys

import numpy as np
import pytest

from maskformer.data.images import batch_images, synthetic_image
from maskformer.data.targets import training_targets
from maskformer.family import family_of
from maskformer.model import zoo
from parity.errors import InputError
from replication.sides.implementation import Frame
from replication.sides.side import IMPLEMENTATIONS, SIDES, implementation, sides_of
from replication.sides.weights import load_weights

ENTRY = zoo.get("tiny")
SIZE = (64, 64)


@pytest.fixture(scope="module")
def steps():
    """Loss, one update and predictions of both sides, in float64, by name."""
    config = ENTRY.model
    weights = load_weights("seeded:0", config)
    batch, sizes = batch_images([synthetic_image(*SIZE, 0)], config)
    targets = training_targets(config, sizes, batch.shape[1:3])
    frame = Frame(batch.shape[1:3], SIZE, SIZE, SIZE)
    found = {}
    for name, side in IMPLEMENTATIONS.items():
        model = side.build(config, weights, "float64")
        outputs = side.run(model, side.inputs(batch, sizes, "float64"))
        given = side.batch(config, batch, sizes, targets, "float64")
        arrays = {k: np.asarray(v) for k, v in family_of(config).outputs.last(outputs).items()}
        tensors = {key: side.tensor(value) for key, value in arrays.items()}
        updates = side.updates(config, ENTRY.solver, weights, "float64")
        found[name] = {
            "outputs": arrays,
            "loss": float(side.loss(model, given.targets)(outputs)),
            "labels": side.predict(tensors, config, frame, ("labels",)).labels,
            "step": updates.step(batch, sizes, targets),
            "weights": {key: np.array(value) for key, value in updates.weights().items()},
        }
    return found


def test_both_sides_compute_the_same_through_the_type(steps) -> None:
    ours, theirs = steps["tf"], steps["torch"]
    assert ours["outputs"].keys() == theirs["outputs"].keys()
    for key, value in theirs["outputs"].items():
        np.testing.assert_allclose(ours["outputs"][key], value, rtol=0, atol=1e-9)
    assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-12)
    np.testing.assert_array_equal(ours["labels"], theirs["labels"])


def test_an_update_through_the_type_is_the_same(steps) -> None:
    ours, theirs = steps["tf"], steps["torch"]
    assert ours["step"]["total"] == pytest.approx(theirs["step"]["total"], rel=1e-12)
    np.testing.assert_array_equal(ours["step"]["pairs"], theirs["step"]["pairs"])
    assert ours["weights"].keys() == theirs["weights"].keys()
    before = load_weights("seeded:0", ENTRY.model).state
    moved = [key for key, value in theirs["weights"].items() if (value != before[key]).any()]
    assert len(moved) > 50
    for key in moved:
        np.testing.assert_allclose(
            ours["weights"][key], theirs["weights"][key], rtol=0, atol=1e-9, err_msg=key
        )


def test_sides_are_opened_by_name() -> None:
    assert [implementation(name).name for name in SIDES] == list(SIDES)
    assert (sides_of("both"), sides_of("tf")) == (SIDES, ("tf",))
    with pytest.raises(InputError, match="--side is 'jax'"):
        implementation("jax")


@pytest.mark.parametrize(("name", "other"), [("torch", "tensorflow"), ("tf", "torch")])
def test_a_side_needs_its_own_framework_only(name: str, other: str) -> None:
    program = (
        "import sys\n"
        "from replication.sides.side import IMPLEMENTATIONS\n"
        "frameworks = {'torch', 'tensorflow'}\n"
        "assert not frameworks & set(sys.modules), 'a framework is loaded with the names'\n"
        f"side = IMPLEMENTATIONS[{name!r}]\n"
        "import numpy as np\n"
        "assert np.asarray(side.tensor(np.ones(2, np.float32))).sum() == 2\n"
        f"assert {other!r} not in sys.modules, 'the other framework is loaded'\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-500:]
