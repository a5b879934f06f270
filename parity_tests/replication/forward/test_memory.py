"""A full-size audit fits into the memory of a small machine."""

import json
import subprocess
import sys
import weakref
from pathlib import Path

import pytest

from benchmarks.audit_cost import MOST_BYTES
from maskformer.model import zoo
from parity.auditing.port import build_port
from parity.auditing.reference import measure_reference
from parity.audits import judge_port
from parity.steps import Steps
from replication.forward.run import Request, prepare

ROOT = Path(__file__).parents[3]


def test_an_audit_that_is_made_once_lets_go_of_models_and_tensors():
    request = Request(zoo.model_config("tiny"), "seeded:0", size="64x96", executions=("eager",))
    quiet = Steps(0, quiet=True)
    case = prepare(request, quiet)
    reference = measure_reference(case.pair, case.options, quiet)
    port = build_port(reference, case.options, quiet)
    kept = judge_port(reference, port, case.options, quiet)
    held = [reference.recorder, reference.recorder.model, reference.trace]
    held += [next(iter(reference.trace.values())), port.model64, port.model32]
    held = [weakref.ref(one) for one in held]
    assert all(one() is not None for one in held)
    once = judge_port(reference, port, case.options, quiet, once=True)
    assert [one() for one in held] == [None] * len(held)
    for name in ("verdict", "taps", "layers", "claims"):
        assert getattr(once, name) == getattr(kept, name)


@pytest.mark.slow
def test_a_full_size_audit_with_isolation_stays_below_its_memory():
    words = [sys.executable, "-m", "benchmarks.audit_cost", "--case", "audit --isolate"]
    words += ["--config", "coco_r50", "--size", "640x640"]
    run = subprocess.run(words, check=True, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    found = json.loads(run.stdout.splitlines()[-1])
    assert found["verdict"] == "equal"
    assert {f"port, float32, {one}" for one in ("eager", "graph", "xla")} <= set(found["steps"])
    assert found["peak_bytes"] < MOST_BYTES, f"peak is {found['peak_bytes'] / 1e9:.2f} GB"
