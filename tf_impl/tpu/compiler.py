"""Compiles an HLO module with libtpu for a TPU that is not there; prints one JSON object.

    python -m tf_impl.tpu.compiler --hlo step.hlo --topology v5e:2x2 --replicas 4

A process of its own: the compiler reads its settings from the environment when it is loaded, and
ends the process where it meets what it takes for a defect. Loads JAX, not TensorFlow.
"""

import argparse
import json
import re
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from parity.errors import InputError
from parity.orphans import end_with_parent

DYNAMIC = re.compile(r"stablehlo\.(dynamic_\w+|real_dynamic_slice|set_dimension_size)$")
STATIC_DYNAMIC = {"stablehlo.dynamic_slice", "stablehlo.dynamic_update_slice"}
MODES = {"v4": {"chip_config_name": "megacore"}}
"""A chip of v4 is one device in a training run, its two cores together; the compiler alone would
take each core for a device of half the memory."""
HOST = ("host", "callback", "pyfunc", "outside_compilation")


def main() -> None:
    """Prints what the compiler says of the module: it compiles, or why not."""
    end_with_parent()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hlo", type=Path, required=True, help="serialized HloModuleProto")
    parser.add_argument("--topology", required=True, help="chips, such as v5e:2x2")
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--effort", type=float, default=0.0, help="-1 compiles fastest, to 1")
    arguments = parser.parse_args()
    try:
        found = compile_module(
            arguments.hlo.read_bytes(), arguments.topology, arguments.replicas, arguments.effort
        )
    except RefusedError as refused:
        reason = str(refused)
        found = {"compiles": False, "reason": reason, "kind": refused.kind}
        found["needed"] = needed_bytes(reason)
    print(json.dumps(found))


class RefusedError(Exception):
    """The module cannot run on that hardware; `kind` is topology, shapes, host, memory or other."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


def compile_module(hlo: bytes, topology: str, replicas: int, effort: float) -> dict[str, Any]:
    """Memory in bytes by kind, FLOPs and bytes of one step, and the seconds it took to compile.

    Raises RefusedError with the reason.
    """
    from jax._src.interpreters import mlir
    from jax._src.lib import _jax
    from jax.experimental import topologies

    try:
        devices = topologies.get_topology_desc(
            platform="tpu", topology_name=topology, **MODES.get(topology.partition(":")[0], {})
        ).devices
    except Exception as error:  # libtpu gives all its refusals as one type
        raise RefusedError("topology", _first_line(error)) from error
    if replicas > len(devices):
        raise RefusedError(
            "topology", f"{topology} has {len(devices)} devices, fewer than {replicas} replicas"
        )
    chosen = devices[:replicas]

    start = time.perf_counter()
    with mlir.make_ir_context():
        module = stable_module(hlo)
        options = options_for(chosen)
        options.executable_build_options.exec_time_optimization_effort = effort
        try:
            program = chosen[0].client.compile(module, _jax.DeviceList(tuple(chosen)), options)
        except Exception as error:  # likewise
            text = str(error)
            kind = "memory" if "RESOURCE_EXHAUSTED" in text else "other"
            raise RefusedError(kind, _memory_line(text) or _first_line(error)) from error
    seconds = time.perf_counter() - start
    memory, cost = program.get_compiled_memory_stats(), program.cost_analysis()
    return {
        "compiles": True,
        "device": chosen[0].device_kind,
        "devices": len(devices),
        "replicas": replicas,
        "compile_seconds": seconds,
        "memory": {
            "arguments": memory.argument_size_in_bytes,
            "outputs": memory.output_size_in_bytes - memory.alias_size_in_bytes,
            "temporaries": memory.temp_size_in_bytes,
            "code": memory.generated_code_size_in_bytes,
        },
        "flops": cost["flops"],
        "bytes_accessed": cost["bytes accessed"],
    }


def check_jax() -> None:
    """Raises InputError where JAX is not installed, which compiles and executes programs here."""
    if find_spec("jax") is None:
        raise InputError(
            "no program can be executed here",
            "jax is not installed",
            "Install it: pip install 'maskformer-replication[tpu]'",
        )


def options_for(devices: Sequence[Any]) -> Any:
    """The compiler's options where each of the devices runs one replica."""
    import numpy as np
    from jaxlib import xla_client

    options = xla_client.CompileOptions()
    options.num_replicas, options.num_partitions = len(devices), 1
    options.device_assignment = xla_client.DeviceAssignment.create(
        np.array([[device.id] for device in devices])
    )
    return options


def stable_module(hlo: bytes) -> Any:
    """The StableHLO module of an HLO module, without the copies TensorFlow puts on its results.

    To be called in an MLIR context. Raises RefusedError for dynamic shapes and calls to the host.
    """
    from jaxlib import xla_client
    from jaxlib.mlir import ir

    module = ir.Module.parse(xla_client._xla.mlir.hlo_to_stablehlo(hlo))
    copies: list[Any] = []
    problems: list[RefusedError] = []

    def visit(operation: Any) -> Any:
        if operation.name == "mhlo.copy":
            copies.append(operation)
        elif (refused := _problem(operation)) is not None:
            problems.append(refused)
        return ir.WalkResult.ADVANCE

    module.operation.walk(visit)
    if problems:
        raise problems[0]
    for copy in copies:
        copy.result.replace_all_uses_with(copy.operands[0])
        copy.erase()
    return module


def _problem(operation: Any) -> RefusedError | None:
    """Why an operation cannot be part of a training step on a TPU, or None."""
    name = operation.name
    if name == "stablehlo.custom_call":
        target = str(operation.attributes["call_target_name"]).strip('"')
        if any(word in target.lower() for word in HOST):
            return RefusedError("host", f"calls the host: {target} at {_place(operation)}")
    elif name in ("stablehlo.infeed", "stablehlo.outfeed", "stablehlo.send", "stablehlo.recv"):
        return RefusedError("host", f"talks to the host: {name} at {_place(operation)}")
    if DYNAMIC.match(name) and name not in STATIC_DYNAMIC:
        return RefusedError("shapes", f"a shape depends on data: {name} at {_place(operation)}")
    for result in operation.results:
        text = str(result.type)
        if "?" in text:
            return RefusedError(
                "shapes", f"a shape depends on data: {name} gives {text} at {_place(operation)}"
            )
    return None


def _place(operation: Any) -> str:
    names = re.findall(r'"([^"]+)"', str(operation.location))
    return names[0] if names else "an unnamed place"


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), repr(error))


def _memory_line(text: str) -> str | None:
    match = re.search(r"Used [\d.]+\w+ of [\d.]+\w+ \w+\.[^\n]*", text)
    return match.group() if match else None


def needed_bytes(reason: str) -> int:
    """The bytes that a program needs, from the compiler's refusal; 0 where that does not say.

    libtpu 0.0.42 has two wordings: what is used of the memory, and what temporaries alone need.
    """
    match = re.search(r"(?:Used |temporaries \()([\d.]+)([KMGT]?)\b", reason)
    return int(float(match[1]) * 1024 ** " KMGT".index(match[2] or " ")) if match else 0


if __name__ == "__main__":
    main()
