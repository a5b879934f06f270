"""Where numbers come from: versions, machine, flags and the state of the source tree."""

import os
import platform
import subprocess
import sys
from datetime import datetime, timezone
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("numpy", "torch", "tensorflow", "tf_keras", "tf-models-official", "safetensors")
IN_USE = {"keras": "keras", "jax": "jax", "flax": "flax", "optax": "flax"}
"""What is recorded where a model of it was met, and which of `parity.frameworks` meets it."""
VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
    "TF_ENABLE_ONEDNN_OPTS",
    "TF_DETERMINISTIC_OPS",
    "TF_USE_LEGACY_KERAS",
    "XLA_FLAGS",
    "CUDA_VISIBLE_DEVICES",
    "CUBLAS_WORKSPACE_CONFIG",
)


def provenance(source: Path | None = None, **extras: Any) -> dict[str, Any]:
    """A JSON dictionary that says how a run came about; loads no framework that is not loaded.

    Args:
        source: folder whose git commit is recorded; by default this package's own, as it was when a
            process first asked: what is loaded stays, whatever becomes of the files.
        extras: what only the caller knows, such as `config`, `weights_sha256`, `seed`.
    """
    return {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "python": platform.python_version(),
        "packages": {
            name: version(name)
            for name in (*PACKAGES, *(one for one in IN_USE if _is_in_use(IN_USE[one])))
        },
        "platform": platform.platform(),
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "environment": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        "torch": _torch_flags(),
        "tensorflow": _tensorflow_flags(),
        "git": git_state(source) if source else dict(_own_git_state()),
        **extras,
    }


def _is_in_use(framework: str) -> bool:
    return f"parity.frameworks.{framework}" in sys.modules


@cache
def version(package: str) -> str | None:
    """The installed version of a distribution, None where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


@cache
def cpu_model() -> str:
    """The processor's name as the operating system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


@cache
def _own_git_state() -> dict[str, Any]:
    return git_state(Path(__file__).resolve().parent)


def git_state(folder: Path) -> dict[str, Any]:
    """The commit of the work tree around `folder` and whether files differ from it.

    Both are None outside a repository, before its first commit, without git, and where git keeps
    nothing in the folder, such as packages installed inside the work tree of another project.
    """
    commit = _git(folder, "rev-parse", "HEAD") if _git(folder, "ls-files") else None
    changes = None if commit is None else _git(folder, "status", "--porcelain")
    return {"commit": commit, "dirty": None if changes is None else bool(changes)}


def _git(folder: Path, *arguments: str) -> str | None:
    # looking at a work tree writes nothing to it, not even what git would remember for itself
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _torch_flags() -> dict[str, Any] | None:
    torch = sys.modules.get("torch")
    if torch is None:
        return None
    return {
        "threads": torch.get_num_threads(),
        "interop_threads": torch.get_num_interop_threads(),
        "onednn": torch.backends.mkldnn.enabled,
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "cuda": torch.version.cuda if torch.cuda.is_available() else None,
    }


def _tensorflow_flags() -> dict[str, Any] | None:
    tf = sys.modules.get("tensorflow")
    if tf is None:
        return None
    return {
        "threads": tf.config.threading.get_intra_op_parallelism_threads(),
        "interop_threads": tf.config.threading.get_inter_op_parallelism_threads(),
        "onednn": os.environ.get("TF_ENABLE_ONEDNN_OPTS", "1") != "0",
        "tensor_float_32": tf.config.experimental.tensor_float_32_execution_enabled(),
        "graph_rewrites": tf.config.optimizer.get_experimental_options(),
    }
