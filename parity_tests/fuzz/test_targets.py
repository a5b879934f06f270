"""Every target of the fuzzer reads its seeds, and what is made of them by chance, without a fault.

The same targets run under atheris, guided by coverage: `python -m parity_tests.fuzz.run`.
"""

import numpy as np
import pytest

from parity_tests.fuzz.targets import TARGETS

ROUNDS = 150


def changed(seed: bytes, rng: np.random.Generator) -> bytes:
    """The seed with a few bytes set, cut out, doubled or exchanged for a telling value."""
    content = bytearray(seed)
    for _ in range(int(rng.integers(1, 5))):
        at = int(rng.integers(0, len(content) + 1))
        kind = int(rng.integers(0, 4))
        if kind == 0 and content:
            content[at % len(content)] = int(rng.integers(0, 256))
        elif kind == 1:
            del content[at : at + int(rng.integers(1, 9))]
        elif kind == 2:
            content[at:at] = content[at : at + int(rng.integers(1, 40))]
        else:
            content[at:at] = [b"\xff" * 8, b"-1", b"1e400", b"[[[[", b"\0", b"9" * 50][
                int(rng.integers(0, 6))
            ]
    return bytes(content)


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_raises_nothing_but_its_errors(name: str) -> None:
    target = TARGETS[name]
    rng = np.random.default_rng(len(name))
    for seed in target.seeds():
        target.read(seed)
        for _ in range(ROUNDS // len(target.seeds())):
            target.read(changed(seed, rng))


def test_a_fault_of_a_reader_is_noticed(monkeypatch) -> None:
    from weight_conversion import safetensors_file

    monkeypatch.setattr(safetensors_file, "_entry", lambda *_: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        TARGETS["safetensors"].read(TARGETS["safetensors"].seeds()[0])
