"""A subject tells results of a kind apart, and has nothing of what is compared."""

from collections.abc import Mapping
from dataclasses import replace

import pytest

from parity.auditing.result import Unpaired
from parity_tests.reports import recorded
from parity_tests.reports.test_samples import SAMPLE
from replication.forward import every_architecture as audit_all
from reports.chapters.architectures import Architecture, NearestRatio
from reports.chapters.training_runs import Reached, RunsResult
from reports.loading import load, of_result
from reports.subjects import difference, shown, subject

TOLD_APART = {  # by kind: a fact, where it is recorded, another value
    "receipt": [("dtype", ("options", "dtype"), "bfloat16"), ("target", ("target", "kind"), "hf")],
    "audit": [
        ("weights_sha256", ("provenance", "weights_sha256"), "ab" * 32),
        ("config_sha256", ("provenance", "config_sha256"), "ab" * 32),
        ("reference", ("provenance", "reference"), "hf"),
        ("only", ("provenance", "only"), "backbone"),
        ("inputs", ("inputs", 0, "sha256"), "ab" * 32),
        ("executions", ("float32",), {}),
        ("title", ("title",), "another pair"),
    ],
    "training-step": [
        ("size", ("size",), "96x64"),
        ("weights_sha256", ("provenance", "weights_sha256"), "ab" * 32),
    ],
    "trajectory": [
        ("dtype", ("dtype",), "float32"),
        ("base_lr", ("base_lr",), 1e-4),
        ("steps", ("steps",), ()),
        ("batch", ("batch",), 7),
        ("execution", ("execution",), "xla"),
    ],
    "evaluation": [
        ("weights_sha256", ("weights_sha256",), "ab" * 32),
        ("port_weights_sha256", ("port_weights_sha256",), "ab" * 32),
        ("augmented", ("augmented",), True),
        ("images", ("images",), 5000),
        ("sides", ("sides",), {"tf": None}),
        ("data", ("data",), "elsewhere/coco"),
    ],
    "run": [
        ("side", ("side",), "imported"),
        ("seed", ("settings", "seed"), 1),
        ("solver", ("settings", "solver"), {"base_lr": 1.0}),
        ("replicas", ("replicas",), 8),
        ("data_sha256", ("data_sha256",), "ab" * 32),
        ("checkpoint_sha256", ("checkpoint_sha256",), "ab" * 32),
    ],
    "preflight": [
        ("precision", ("precision",), "float32"),
        ("replicas", ("replicas",), 8),
        ("topologies", ("topologies", 0, "topology"), "v5p:2x2x1"),
    ],
    "fault-score": [("size", ("size",), "1x1"), ("faults", ("outcomes", 0, "id"), "another")],
}
COMPARED = (  # what may be otherwise in two recordings of the same thing
    ("verdict",),
    ("command",),
    ("seconds",),
    ("timings",),
    ("versions",),
    ("git_commit",),
    ("threads",),
    ("code",),
    ("provenance", "packages"),
    ("provenance", "git"),
    ("settings", "data"),
    ("settings", "initial"),
    ("target", "files"),
    ("source", "path"),
)


@pytest.fixture(scope="module")
def sample():
    found = {}
    for one in load([SAMPLE / "evidence"]):
        found.setdefault(one.kind.name, one)
    return found


def put(holder, places, value):
    """A result, or a part of it, with one value changed or added."""
    place, *within = places
    if isinstance(holder, Mapping):
        return {**holder, place: put(holder[place], within, value) if within else value}
    if isinstance(holder, tuple):
        parts = [put(one, within, value) if i == place else one for i, one in enumerate(holder)]
        return tuple(parts)
    part = put(getattr(holder, place), within, value) if within else value
    return replace(holder, **{place: part})


def changed(one, places, value):
    """The evidence with one value of its result changed or added."""
    return replace(one, result=put(one.result, places, value))


def has(holder, place):
    return place in holder if isinstance(holder, Mapping) else hasattr(holder, place)


@pytest.mark.parametrize("name", TOLD_APART)
def test_a_fact_that_tells_results_apart_is_in_the_subject(sample, name):
    one = sample[name]
    for fact, places, value in TOLD_APART[name]:
        other = changed(one, places, value)
        assert subject(other) != subject(one), fact
        assert difference(subject(one), subject(other)).startswith(f"{fact} ("), fact


@pytest.mark.parametrize("name", TOLD_APART)
def test_what_is_compared_is_not_in_the_subject(sample, name):
    one = sample[name]
    counted = 0
    for *holders, fact in COMPARED:
        holder = one.result
        for each in holders:
            holder = holder.get(each) if isinstance(holder, Mapping) else getattr(holder, each, {})
        if has(holder or {}, fact):
            counted += 1
            assert subject(changed(one, (*holders, fact), "other")) == subject(one), fact
    assert counted
    for index, claim in enumerate(one.result.claims):
        if isinstance(claim.value, float):
            moved = changed(one, ("claims", index, "value"), 2 * claim.value + 1)
            assert subject(moved) == subject(one)


def test_clean_audits_are_told_apart_by_their_cases():
    one = of_result(recorded.clean_audits())
    other = changed(one, ("outcomes", 1, "case", "seed"), 77)
    assert subject(other) != subject(one)
    assert subject(changed(one, ("outcomes", 1, "seconds"), 77.0)) == subject(one)


def test_audits_of_every_architecture_are_told_apart_by_size_and_weights(monkeypatch):
    def every(size, digest, verdict="equal"):
        row = Architecture(
            config="tiny",
            covers=("tiny",),
            taps=1,
            unpaired=Unpaired((), ()),
            worst_gap=0.0,
            worst_tap="a",
            nearest=NearestRatio("a", "l2", 0.0, 1e-9, 0.0),
            first_divergence=None,
            verdict=verdict,
            seconds=8.5,
            peak_memory_gb=2.0,
            provenance={**recorded.PROVENANCE, "weights_sha256": digest},
        )
        monkeypatch.setattr(audit_all, "run_apart", lambda *asked: (row, ()))
        return of_result(audit_all.audit_all("seeded:7", size, None, "parity audit --all"))

    one = subject(every("64x96", "ab" * 32))
    assert one == subject(every("64x96", "ab" * 32, "different"))
    assert one != subject(every("96x64", "ab" * 32))
    assert one != subject(every("64x96", "cd" * 32))


def runs(command):
    """What tells a comparison of two runs from others, as recorded."""
    reached = Reached(
        folder="run",
        metrics_sha256="ab" * 32,
        scores={},
        seconds=1.0,
        step_seconds=0.1,
        data_wait_share=0.0,
    )
    sides = {"torch": reached, "tf": reached}
    result = RunsResult(verdict="agree", config="tiny", steps=12, sides=sides, command=command)
    return of_result(result)


def test_comparisons_of_runs_are_told_apart_by_their_settings_and_not_by_their_folders():
    one = runs("parity train --data a/scenes --seed 0 --threads 2 --out DIR")
    assert subject(runs("parity train --data b/scenes --seed 0 --out OTHER")) == subject(one)
    other = runs("parity train --data a/scenes --seed 1 --out DIR")
    assert difference(subject(one), subject(other)) == "settings (0, 1)"


@pytest.mark.parametrize(
    ("fact", "text"),
    [
        ("graph", "graph"),
        (0, "0"),
        ([1, 2], "1 2"),
        (["a", "b", "c", "d", "e"], "a b c and 2 more"),
        ("ab" * 32, "abababababab"),
    ],
)
def test_a_fact_is_shown_in_a_few_words(fact, text):
    assert shown(fact) == text


def test_of_long_facts_those_that_begin_alike_are_told_apart():
    one, other = ("word " * 20 + end for end in ("a", "b"))
    assert shown(one) != shown(other)
    assert len(shown(one)) < 70
