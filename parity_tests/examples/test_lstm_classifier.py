"""An LSTM classifier in two frameworks: equal, its weights moved by their layers."""

import numpy as np
import tf_keras

import parity
from examples.lstm_classifier.pair import made


def test_both_are_equal_in_every_execution():
    result = parity.audit(made(), isolate=True, quiet=True)
    assert result.verdict == "equal", result.localisations
    assert set(result.float32) == {"eager", "graph", "xla"}
    reasons = [one for one in result.not_verified if "in one way only" in one]
    assert len(reasons) == 2  # one bias for two, in each direction


def test_directions_that_are_exchanged_are_found():
    def plant(model: tf_keras.Model) -> None:
        forward, backward = model.layers[1].forward_layer, model.layers[1].backward_layer
        given = forward.get_weights(), backward.get_weights()
        backward.set_weights(given[0])
        forward.set_weights(given[1])
        assert not all(map(np.array_equal, *given))

    pair = parity.Pair(**{**vars(made()), "after_loading": plant})
    result = parity.audit(pair, executions=(), quiet=True)
    assert [one.path for one in result.localisations] == ["lstm"]
