"""The command line itself, beside its verbs."""

import parity as engine


def test_it_prints_the_version(parity):
    assert parity("--version") == (0, f"parity {engine.__version__}\n", "")
