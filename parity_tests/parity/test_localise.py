"""Every planted fault is named at its module or edge; the sound pair raises no alarm."""

import numpy as np
import pytest

from parity.judge import same_function
from parity.localise import localise
from parity.pairing import Comparison
from parity.trace import module_of
from parity_tests.parity import pairs

FAULTS = [
    ("backbone.down", "same padding", "own", "backbone.down.norm:input"),
    ("backbone.res2.1", "no residual", "wiring", "backbone.res2.1:output"),
    ("backbone.res3.0", "no residual", "wiring", "backbone.res3.0:output"),
    ("backbone", "swapped axes", "wiring", "backbone.down:input"),
    ("fuse", "half-pixel nearest", "wiring", "fuse:output"),
    ("decoder.layers.1.attention", "no scale", "own", "decoder.layers.1.attention.out:input"),
    ("decoder.layers.1", "no query position", "wiring", "decoder.layers.1.attention:input.query"),
    ("decoder.layers.0", "position in value", "wiring", "decoder.layers.0.attention:input.value"),
    ("decoder", "query position not passed", "wiring", "decoder.layers.1:input.query_pos"),
    ("decoder", "no final norm", "wiring", "decoder:output"),
    ("", "memory from another map", "wiring", "decoder:input.memory"),
    ("", "flipped classes", "wiring", "model:output.scores"),
]


@pytest.fixture
def port():
    recorder = pairs.port(pairs.port_model())
    recorder((pairs.nhwc(pairs.image()),), lambda tap: None)
    return recorder


def places(port):
    recorder, trace, floors = pairs.reference()
    inputs = (pairs.nhwc(pairs.image()),)
    return localise(recorder, port, trace, inputs, floors)


def test_localise_is_silent_on_a_sound_pair(port):
    _, trace, floors = pairs.reference()
    comparison = Comparison(trace)
    port((pairs.nhwc(pairs.image()),), comparison)
    verdicts = same_function(comparison.gaps, floors)
    assert len(verdicts) > 90
    assert [str(one) for one in verdicts if not one.passed] == []
    assert places(port) == []


def test_localise_everywhere_runs_every_module_and_finds_the_same(port, monkeypatch):
    recorder, trace, floors = pairs.reference()
    inputs = (pairs.nhwc(pairs.image()),)
    run = []
    isolate = port.isolate
    monkeypatch.setattr(port, "isolate", lambda call, *a: run.append(call) or isolate(call, *a))
    assert localise(recorder, port, trace, inputs, floors, everywhere=True) == []
    assert len(run) == len(port.calls)
    port.modules["decoder.norm"].epsilon = 1e-6
    (found,) = localise(recorder, port, trace, inputs, floors, everywhere=True)
    assert found.path == "decoder.norm"


def alone(port):
    """Verdicts on every module run alone."""
    recorder, trace, floors = pairs.reference()
    found = []
    inputs = (pairs.nhwc(pairs.image()),)
    localise(recorder, port, trace, inputs, floors, everywhere=True, observe=found.extend)
    return found


def test_observed_verdicts_are_of_every_module_and_only_a_wrong_one_fails(port):
    found = alone(port)
    called = {call.path or "model" for call in port.calls}
    assert {module_of(one.key) for one in found} == called
    assert [str(one) for one in found if not one.passed] == []
    for path, fault in (("decoder.layers.0", "position in value"), ("decoder", "no final norm")):
        port.modules[path].fault = fault
        wrong = {module_of(one.key) for one in alone(port) if not one.passed}
        assert wrong == {path}
        port.modules[path].fault = None


@pytest.mark.parametrize(("path", "fault", "kind", "edge"), FAULTS)
def test_localise_names_the_planted_fault(port, path, fault, kind, edge):
    port.modules[path].fault = fault
    found = places(port)
    assert [(one.path, one.kind, one.edge) for one in found] == [(path or "model", kind, edge)]
    assert found[0].evidence.startswith(f"{path or 'model'}: ")
    assert "[float64]" in found[0].evidence


@pytest.mark.parametrize("path", ["decoder.layers.0.norm1", "decoder.layers.1.norm2"])
def test_localise_names_a_norm_with_another_epsilon(port, path):
    port.modules[path].epsilon = 1e-6
    (found,) = places(port)
    assert (found.path, found.kind, found.edge) == (path, "own", f"{path}:output")


def test_localise_counts_the_calls_of_a_shared_module(port):
    port.modules["decoder.norm"].epsilon = 1e-6
    (found,) = places(port)
    assert (found.path, found.kind) == ("decoder.norm", "own")
    assert "in 2 of 2 calls" in found.evidence


def test_localise_names_a_transposed_square_weight(port):
    weight = port.modules["decoder.layers.0.attention.out"].weight
    weight.assign(np.transpose(weight.numpy()))
    (found,) = places(port)
    assert (found.path, found.kind) == ("decoder.layers.0.attention.out", "own")


def test_localise_names_a_changed_frozen_offset(port):
    port.modules["backbone.res2.0.conv1.norm"].bias.assign_add(np.full(8, 1e-7))
    (found,) = places(port)
    assert (found.path, found.kind) == ("backbone.res2.0.conv1.norm", "own")


def test_localise_names_two_faults_in_order(port):
    port.modules["decoder.layers.1"].fault = "no query position"
    port.modules["backbone.res2.0"].fault = "no residual"
    port.modules["decoder.layers.1.norm1"].epsilon = 1e-3
    found = places(port)
    assert [one.path for one in found] == [
        "backbone.res2.0",
        "decoder.layers.1",
        "decoder.layers.1.norm1",
    ]
    assert "its inputs agree" in found[0].evidence
    assert "its inputs differ as well" in found[1].evidence


def test_localise_says_when_the_inputs_differ(port):
    recorder, trace, floors = pairs.reference()
    inputs = (pairs.nhwc(pairs.image(seed=1)),)
    (found,) = localise(recorder, port, trace, inputs, floors)
    assert (found.path, found.kind, found.edge) == ("model", "wiring", "model:input.images")
    assert found.evidence.startswith("model: the two models were given different inputs")
