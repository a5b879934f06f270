"""The lowered training step of several replicas, executed on virtual processors instead of cores.

It is the program that a TPU's compiler is given, all-reduces included, run by XLA for processors.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tf_impl.tpu.compiler import check_jax
from tf_impl.tpu.executor import FOUND, GIVEN, PROGRAM, REQUEST
from tf_impl.tpu.lowering import Program

WAITING = 3600
"""Seconds for which a replica waits for another, which shares its processor."""


@dataclass(frozen=True)
class Executed:
    """What several replicas have after each step.

    Args:
        results: by step and path, what the function returned, [replicas, ...].
        kept: by step and index among `Program.captured`, variables: [1, ...] where all replicas
            have the same bits, else [replicas, ...].
        differing: by step, indices of variables that are not bit-equal among replicas.
        changed: how many variables a step changes.
        compile_seconds, run_seconds: of all steps.
    """

    results: Sequence[Mapping[str, np.ndarray]]
    kept: Mapping[int, Mapping[int, np.ndarray]]
    differing: Sequence[Sequence[int]]
    changed: int
    compile_seconds: float
    run_seconds: float


@dataclass(frozen=True)
class Given:
    """What a program starts from, and what becomes of it.

    Args:
        batches: by step, the function's own tensors; each replica has its part of the first axis.
        kept: by step, counted from 0, indices among `Program.captured` of variables to keep.
        wrong: a mistake of `tf_impl.tpu.reductions.WRONG` to plant, or "".
        clip: the norm that gradients are clipped to, which one of the mistakes needs.
        products: passes of bfloat16 in which products of float32 are made, as
            `tf_impl.tpu.products` says, or 0 for as they are.
    """

    batches: Sequence[Sequence[np.ndarray]]
    kept: Mapping[int, Sequence[int]]
    wrong: str = ""
    clip: float | None = None
    products: int = 0


def execute(program: Program, given: Given) -> Executed:
    """Runs the program once for each batch, from the variables as they are now.

    Variables do not change here. Raises InputError where JAX is not installed, and RuntimeError
    with the last words of the process in which the program ran, where that failed.
    """
    check_jax()
    request = {
        "replicas": program.replicas,
        "steps": len(given.batches),
        "results": len(program.results),
        "kept": given.kept,
        "wrong": given.wrong,
        "clip": given.clip,
        "products": given.products,
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / PROGRAM).write_bytes(program.hlo)
        (folder / REQUEST).write_text(json.dumps(request))
        arrays = {
            f"{step}/input/{index}": array
            for step, batch in enumerate(given.batches)
            for index, array in enumerate(batch)
        }
        variables = {f"variable/{index}": one.numpy() for index, one in enumerate(program.captured)}
        np.savez(folder / GIVEN, **arrays, **variables)
        run = subprocess.run(
            [sys.executable, "-m", "tf_impl.tpu.executor", "--folder", name],
            cwd=Path(__file__).parents[2],
            env={**os.environ, **_environment(program.replicas)},
            capture_output=True,
            text=True,
            check=False,
        )
        if run.returncode:
            words = run.stderr.strip()[-4000:] or f"exit status {run.returncode}"
            raise RuntimeError(f"the program of {program.replicas} replicas ended: {words}")
        told = json.loads(run.stdout.splitlines()[-1])
        found = np.load(folder / FOUND)
        results = [
            {path: found[f"{step}/result/{index}"] for index, path in enumerate(program.results)}
            for step in range(len(given.batches))
        ]
        kept = {
            step: {index: found[f"{step}/variable/{index}"] for index in indices}
            for step, indices in given.kept.items()
        }
    return Executed(
        results,
        kept,
        told["differing"],
        told["changed"],
        told["compile_seconds"],
        told["run_seconds"],
    )


def _environment(replicas: int) -> dict[str, str]:
    flags = {
        "xla_force_host_platform_device_count": replicas,
        "xla_cpu_collective_call_warn_stuck_timeout_seconds": WAITING,
        "xla_cpu_collective_call_terminate_timeout_seconds": WAITING,
    }
    return {
        "JAX_PLATFORMS": "cpu",
        "JAX_ENABLE_X64": "1",  # the count of updates has 64 bits
        "TPU_SKIP_MDS_QUERY": "1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "XLA_FLAGS": " ".join(f"--{name}={value}" for name, value in flags.items()),
    }
