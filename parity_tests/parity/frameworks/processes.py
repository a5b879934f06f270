"""What a program beside this says of a kind of model, in a process that has its backend."""

import functools
import json
import os
import subprocess
import sys
from typing import Any

from parity_tests.docs.documents import ROOT


@functools.cache
def outcomes(program: str, kind: str) -> dict[str, Any]:
    """By name, what `python -m parity_tests.parity.frameworks.PROGRAM KIND` prints as JSON."""
    backend = kind.partition(" ")[2] or "jax"
    environment = os.environ | {"KERAS_BACKEND": backend, "JAX_PLATFORMS": "cpu"}
    run = subprocess.run(
        [sys.executable, "-m", f"{__package__}.{program}", kind],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
    )
    assert run.returncode == 0, run.stderr
    lines = [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]
    return {name: found for line in lines for name, found in line.items()}
