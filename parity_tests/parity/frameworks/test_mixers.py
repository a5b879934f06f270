"""One model in every framework: the same verdict, places and causes, in every execution."""

from typing import Any

import pytest

from parity_tests.parity.frameworks.mixers import CLEAN, FORWARD, KINDS, TRAINING, trained_place
from parity_tests.parity.frameworks.processes import outcomes

pytestmark = pytest.mark.slow  # seven processes, each with a framework and many audits

EXECUTIONS = {
    "tf_keras": ["eager", "graph", "xla"],
    "keras tensorflow": ["eager", "graph", "xla"],
    "keras jax": ["eager", "jit"],
    "keras torch": ["eager"],
    "nnx": ["eager", "jit"],
    "linen": ["eager", "jit"],
    "torch": ["eager"],
}
UNEXPLAINED = {"kernel off by 1e-6"}  # no mistake in the code of a model is known to make it


@pytest.mark.parametrize("kind", KINDS)
def test_the_mixer_is_equal_in_every_execution(kind):
    found = outcomes("mixers", kind)[CLEAN]
    assert (found["verdict"], found["failing"]) == ("equal", {})
    assert found["executions"] == EXECUTIONS[kind]
    # The training step is compared in each as well.
    assert {trained_place(kind, one)[0] for one in TRAINING} <= set(found["claims"])


@pytest.mark.parametrize("fault", FORWARD)
def test_every_framework_gives_the_same_places_and_causes(fault):
    found = {
        kind: (
            one[fault]["verdict"],
            tuple(one[fault]["places"]),
            tuple(one[fault]["causes"]),
        )
        for kind in KINDS
        if (one := outcomes("mixers", kind))
    }
    assert len(set(found.values())) == 1, found
    verdict, places, causes = found["torch"]
    assert (verdict, list(places)) == ("different", FORWARD[fault])
    assert all(causes) == (fault not in UNEXPLAINED)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fault", TRAINING)
def test_a_fault_of_training_is_found_at_its_place(kind, fault):
    found = outcomes("mixers", kind)[fault]
    claim, place = trained_place(kind, fault)
    assert found["verdict"] == "different"
    assert found["failing"][claim][0].startswith(place), found["failing"]
    assert found["failing"][claim][1]


def rows() -> list[tuple[str, str, str, int, int]]:
    """A row for each kind: executions, the verdict without a fault, faults found and planted."""
    found = []
    for kind in KINDS:
        one = outcomes("mixers", kind)
        planted = [fault for fault in one if fault != CLEAN]
        right = [fault for fault in planted if _placed(kind, one[fault], fault)]
        executions = ", ".join(one[CLEAN]["executions"])
        found.append((kind, executions, one[CLEAN]["verdict"], len(right), len(planted)))
    return found


def _placed(kind: str, found: dict[str, Any], fault: str) -> bool:
    """Whether a fault was found where it was planted."""
    if fault in FORWARD:
        return found["places"] == FORWARD[fault]
    claim, place = trained_place(kind, fault)
    return (found["failing"].get(claim) or [""])[0].startswith(place)


def test_the_table_of_all_frameworks():
    print("| model | executions | as it is | faults found |", "| --- | --- | --- | --- |", sep="\n")
    for kind, executions, verdict, right, planted in rows():
        print(f"| {kind} | {executions} | {verdict} | {right} of {planted} |")
        assert (verdict, right) == ("equal", planted)
