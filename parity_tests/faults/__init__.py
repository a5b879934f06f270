"""The catalogue: faults that ports have, planted in the TensorFlow side one line at a time."""
