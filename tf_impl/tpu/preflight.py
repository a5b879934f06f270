"""What a TPU would make of a program, found out without one, by the TPU's own compiler.

The compiler is libtpu, which comes with `jax[tpu]`; it compiles for a topology by name.
"""

import fcntl
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

from parity.errors import InputError
from tf_impl.tpu.lowering import Program

ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # the compiler alone may run several times at once
}


@dataclass(frozen=True)
class Chip:
    """What one device of a TPU can do; a device is a core on v2 and v3, else a chip.

    Args:
        hbm: bytes of memory that one device has.
        flops: peak bfloat16 operations per second of one device.
        bandwidth: bytes per second between a device and its memory.
        source: where the three are published.
    """

    hbm: int
    flops: float
    bandwidth: float
    source: str


GIB = 1 << 30
LEAST_FREE = GIB
"""Bytes that a compilation leaves to everything else on this machine."""

_DOCS = "Google Cloud TPU documentation, system architecture of"
CHIPS = {  # per chip in the documents; v2 and v3 have two cores each
    "v2": Chip(8 * GIB, 46e12 / 2, 700e9 / 2, "Jouppi et al. 2020, table 1 (TPUv2)"),
    "v3": Chip(16 * GIB, 123e12 / 2, 900e9 / 2, f"{_DOCS} TPU v3"),
    "v4": Chip(32 * GIB, 275e12, 1228e9, f"{_DOCS} TPU v4"),
    "v5e": Chip(16 * GIB, 197e12, 819e9, f"{_DOCS} TPU v5e"),
    "v5p": Chip(95 * GIB, 459e12, 2765e9, f"{_DOCS} TPU v5p"),
    "v6e": Chip(32 * GIB, 918e12, 1640e9, f"{_DOCS} TPU v6e"),
}


@dataclass(frozen=True)
class Compiled:
    """What the compiler said of a program for one device of a topology.

    Args:
        topology: chips, such as `v5e:2x2`.
        compiles: whether there is an executable.
        reason: why not; empty where there is one.
        kind: of the reason: topology, shapes, host, memory, refused (by the compiler, for whatever
            else), machine (this one's memory), other (the compiler ended without an answer), or
            lowering (there is no program to compile).
        needed: bytes that a program which does not fit needs; 0 where the compiler does not say.
        seconds: how long the compiler took.
        memory: bytes by kind: arguments, outputs that share no memory with them, temporaries, code.
        flops, bytes_accessed: of one run, the bodies of loops of unknown length counted once.
    """

    topology: str
    compiles: bool
    reason: str = ""
    kind: str = ""
    needed: int = 0
    seconds: float = 0.0
    memory: dict[str, int] | None = None
    flops: float = 0.0
    bytes_accessed: float = 0.0

    @property
    def chip(self) -> Chip:
        """The device that the program runs on."""
        return chip_of(self.topology)

    @property
    def hbm_used(self) -> int:
        """Bytes of the device's memory that the program takes."""
        return sum((self.memory or {}).values())

    @property
    def fits(self) -> bool:
        """Whether there is an executable that the device has the memory for."""
        return self.compiles and self.hbm_used <= self.chip.hbm

    @property
    def is_too_large(self) -> bool:
        """Whether the device is known to have too little memory for it."""
        return self.kind == "memory" or (self.compiles and not self.fits)

    @property
    def roofline_seconds(self) -> float:
        """Least time of one run: that of its arithmetic or of its memory traffic, the longer."""
        return max(self.flops / self.chip.flops, self.bytes_accessed / self.chip.bandwidth)


def chip_of(topology: str) -> Chip:
    """The device of a topology `kind:shape`. Raises InputError for a kind without figures."""
    kind = topology.partition(":")[0]
    if kind not in CHIPS:
        raise InputError(
            f"no TPU kind {kind!r} in topology {topology!r}",
            f"known kinds: {', '.join(CHIPS)}",
            "Name one with its chips, for example v5e:2x2.",
        )
    return CHIPS[kind]


def missing_compiler() -> str | None:
    """Why nothing can be compiled for a TPU here, or None."""
    missing = [name for name in ("jax", "libtpu") if find_spec(name) is None]
    return f"not installed: {', '.join(missing)}" if missing else None


def check_compiler() -> None:
    """Raises InputError where nothing can be compiled for a TPU here."""
    if (missing := missing_compiler()) is not None:
        raise InputError(
            "the TPU compiler is not there",
            missing,
            "Install it: pip install 'maskformer-replication[tpu]'",
        )


def compile_for(program: Program, topology: str, effort: float = 0.0) -> Compiled:
    """Compiles `program` with libtpu for `topology`, in a process of its own.

    `effort` from -1 (fastest compilation) to 1 trades the compiler's time for that of the program;
    0 is what a training run gets. Raises InputError for an unknown kind of TPU, and where the
    compiler is not installed. Everything else that keeps the program from running is in the result.
    """
    chip_of(topology)
    check_compiler()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "program.hlo"
        path.write_bytes(program.hlo)
        command = [sys.executable, "-m", "tf_impl.tpu.compiler", "--hlo", str(path)]
        command += ["--topology", topology, "--replicas", str(program.replicas)]
        run = _run([*command, "--effort", str(effort)])
    if run is None:
        return Compiled(topology, False, "the compiler took all memory of this machine", "machine")
    found = None if run.returncode else _answer(run.stdout)
    if found is None:
        words = run.stderr.strip().splitlines() or [f"exit status {run.returncode}"]
        return Compiled(topology, False, f"the compiler ended: {words[-1]}", "other")
    if not found["compiles"]:
        kind = "refused" if found["kind"] == "other" else found["kind"]
        return Compiled(topology, False, found["reason"], kind, found["needed"])
    return Compiled(
        topology,
        True,
        seconds=found["compile_seconds"],
        memory=found["memory"],
        flops=found["flops"],
        bytes_accessed=found["bytes_accessed"],
    )


def _answer(printed: str) -> dict[str, Any] | None:
    """The compiler's object among what libtpu prints around it; None where there is none."""
    for line in reversed(printed.splitlines()):
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict) and "compiles" in found:
            return found
    return None


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str] | None:
    """The end of a process; None where it was ended since it took nearly all memory there is.

    One that others on this machine left no room for begins again when they have ended.
    """
    with _lock_file("running") as lock:
        _enter(lock, fcntl.LOCK_SH)
        if (found := _watched(command)) is not None:
            return found
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            fcntl.flock(lock, fcntl.LOCK_UN)  # who waits for its turn keeps nobody from ending
            _enter(lock, fcntl.LOCK_EX)
            return _watched(command)
    return None


def _enter(lock: IO[str], how: int) -> None:
    """Locks `lock`, one after the other: else who waits to be alone is passed by all that come."""
    with _lock_file("entering") as entering:
        fcntl.flock(entering, fcntl.LOCK_EX)
        fcntl.flock(lock, how)


def _lock_file(name: str) -> IO[str]:
    """A file that all compilations of this user on this machine lock."""
    return (Path(tempfile.gettempdir()) / f"tpu-compilers-{os.getuid()}-{name}").open("a")


def _watched(command: Sequence[str]) -> subprocess.CompletedProcess[str] | None:
    """The end of a process; None where it was ended for want of memory."""
    process = subprocess.Popen(
        command,
        cwd=Path(__file__).parents[2],
        env={**os.environ, **ENVIRONMENT},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    with process:
        try:
            while True:
                try:
                    told = process.communicate(timeout=1)
                except subprocess.TimeoutExpired:
                    if _ended_for_memory(process):
                        return None
                else:
                    return subprocess.CompletedProcess(command, process.returncode, *told)
        finally:
            process.kill()


def _ended_for_memory(process: subprocess.Popen) -> bool:
    """Ends the process where memory is short; of several on this machine, one after the other."""
    import psutil

    if psutil.virtual_memory().available >= LEAST_FREE:
        return False
    with _lock_file("ending") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if psutil.virtual_memory().available >= LEAST_FREE:
            return False
        process.kill()
        process.wait()
    return True
