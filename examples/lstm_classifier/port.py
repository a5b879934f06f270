"""The port: the same classifier, of the layers of Keras 2."""

import tf_keras
from tf_keras import layers

from examples.lstm_classifier.reference import CLASSES, DROPOUT, UNITS, WIDTH, WORDS


def port() -> tf_keras.Model:
    """The model, with weights as Keras draws them: one bias for PyTorch's two, matrices turned."""
    recurrent = layers.LSTM(UNITS, return_sequences=True)
    return tf_keras.Sequential(
        [
            layers.Input((None,), dtype="int64"),
            layers.Embedding(WORDS, WIDTH),
            layers.Bidirectional(recurrent),
            layers.GlobalAveragePooling1D(),
            layers.Dropout(DROPOUT),
            layers.Dense(CLASSES),
        ]
    )
