"""An LSTM classifier of PyTorch beside one of Keras: `pair` is what `parity audit --pair` takes.

Both are built of their library's own layers. What belongs together is declared layer by layer;
the weights follow from the kinds of layers, though the LSTMs hold them differently: PyTorch has two
biases for each direction, Keras their sum.
"""

import parity
from examples.lstm_classifier.port import port
from examples.lstm_classifier.reference import reference, texts

NAMES = parity.Names(
    modules={"0": "embedding", "1": "lstm", "3": "dropout", "4": "classifier"},
    tensors={"lstm:output": "0"},
    reference_only={"lstm:output.1.*": "the port does not return the last states"},
)


def made(seed: int = 0) -> parity.Pair:
    """The pair with random weights."""
    tokens, _ = texts(seed=seed)
    return parity.Pair(reference(seed), port, (tokens,), names=NAMES)


pair = made()
