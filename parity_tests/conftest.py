"""Settings of the whole suite: repeatable property tests, one thread per parallel worker."""

import dataclasses
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import settings

from parity.steps import give_back

PARALLEL = "PYTEST_XDIST_WORKER" in os.environ
if PARALLEL:  # read when torch, TensorFlow and NumPy's BLAS are first imported, which is later
    for variable in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        os.environ.setdefault(variable, "1")

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # of a background job, by children too
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:  # under nohup; children start with none
    signal.signal(signal.SIGHUP, lambda number, frame: None)

settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def _restore_torch_threads() -> Iterator[None]:
    """A test may set torch's thread count; the next one starts with the count that it found."""
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else 0
    yield
    if torch and torch.get_num_threads() != before:
        torch.set_num_threads(before)


GARBAGE = 1 << 28  # bytes of growth that are worth a collection
_resident = {"after collection": 0}


def _resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture(autouse=True)
def _free_models() -> Iterator[None]:
    """Models sit in reference cycles: few objects, so no collection, but gigabytes of weights.

    JAX keeps every compiled program, and the C heap what was freed between other blocks.
    """
    yield
    if _resident_bytes() > _resident["after collection"] + GARBAGE:
        if (jax := sys.modules.get("jax")) is not None:
            jax.clear_caches()
        give_back()
        _resident["after collection"] = _resident_bytes()


@pytest.fixture
def parity(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> Callable[..., tuple[int, str, str]]:
    """parity(*words): runs the command line; returns exit status, standard output and error."""
    from replication import cli

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["parity", *map(str, words)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        captured = capsys.readouterr()
        return stopped.value.code or 0, captured.out, captured.err

    return run


@pytest.fixture
def another_epsilon(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, str], str]:
    """another_epsilon(layer, norm): every port built from now on has 1e-6 in that decoder norm.

    Returns the path of the module that is wrong.
    """
    import tf_impl.layers as layers
    from replication.sides.side import IMPLEMENTATIONS, PORT

    def plant(layer: int, norm: str) -> str:
        port = IMPLEMENTATIONS[PORT]

        def faulty(*arguments: Any) -> Any:
            model = port.build(*arguments)
            module = getattr(model.sem_seg_head.predictor.transformer.decoder.layers[layer], norm)

            def call(input: Any) -> Any:
                with monkeypatch.context() as patch:
                    patch.setattr(layers, "NORM_EPSILON", 1e-6)
                    return layers.LayerNorm.call(module, input)

            module.call = call
            return model

        monkeypatch.setitem(IMPLEMENTATIONS, PORT, dataclasses.replace(port, build=faulty))
        return f"sem_seg_head.predictor.transformer.decoder.layers.{layer}.{norm}"

    return plant
