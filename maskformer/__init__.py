"""The ground floor: what both implementations share. Imports neither torch nor TensorFlow."""
