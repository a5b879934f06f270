"""Runs an HLO module of several replicas on as many virtual processors; prints one JSON object.

    python -m tf_impl.tpu.executor --folder FOLDER --replicas 4

A process of its own: the number of processors is fixed when JAX starts. Loads JAX, not TensorFlow.
`tf_impl.tpu.execution` writes the folder and reads what is found there.
"""

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from parity.orphans import end_with_parent
from tf_impl.tpu.compiler import options_for, stable_module
from tf_impl.tpu.products import rewrite
from tf_impl.tpu.reductions import plant

REQUEST, PROGRAM, GIVEN, FOUND = "request.json", "program.hlo", "given.npz", "found.npz"


def main() -> None:
    """Executes what is in the folder; prints how long it took, and what differs."""
    end_with_parent()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True)
    folder = parser.parse_args().folder
    request = json.loads((folder / REQUEST).read_text())
    print(json.dumps(Execution(folder, request).run()))


class Execution:
    """The program of a folder, compiled for as many processors as it has replicas."""

    def __init__(self, folder: Path, request: Mapping[str, Any]) -> None:
        """`request` has replicas, steps, results, kept (indices of variables by step), wrong, clip
        and products (passes of bfloat16, or 0)."""
        import jax
        from jax.sharding import Mesh, NamedSharding, PartitionSpec

        self.folder, self.request = folder, request
        self.devices = jax.devices("cpu")[: request["replicas"]]
        mesh = Mesh(np.array(self.devices), ("replicas",))
        self._shared = NamedSharding(mesh, PartitionSpec())
        self._split = NamedSharding(mesh, PartitionSpec("replicas"))
        start = time.perf_counter()
        self.executable, self.changed = self._compiled()
        self.compile_seconds = time.perf_counter() - start

    def _compiled(self) -> tuple[Any, list[tuple[int, int]]]:
        """The executable, and (parameter, result) of each variable that the program changes."""
        from jax._src.interpreters import mlir
        from jax._src.lib import _jax

        replicas = self.request["replicas"]
        with mlir.make_ir_context():
            module = stable_module((self.folder / PROGRAM).read_bytes())
            if self.request["wrong"]:
                plant(module, self.request["wrong"], replicas, self.request["clip"])
            if self.request["products"]:
                rewrite(module, self.request["products"])
            changed = [
                (one["alias"]["parameter_number"].value, one["output_index"][0])
                for one in module.operation.attributes["mhlo.input_output_alias"]
            ]
            devices = _jax.DeviceList(tuple(self.devices))
            client = self.devices[0].client
            return client.compile_and_load(module, devices, options_for(self.devices)), changed

    def run(self) -> dict[str, Any]:
        """Executes every step on what the one before left; writes what is kept."""
        import jax

        given = np.load(self.folder / GIVEN)
        count = sum(name.startswith("variable/") for name in given.files)
        variables = [
            jax.device_put(given[f"variable/{index}"], self._shared) for index in range(count)
        ]
        found: dict[str, np.ndarray] = {}
        differing: list[list[int]] = []
        start = time.perf_counter()
        for step in range(self.request["steps"]):
            inputs = self._inputs(given, step)
            results = self.executable.execute_sharded([*inputs, *variables])
            arrays = results.disassemble_into_single_device_arrays()
            for index in range(self.request["results"]):
                found[f"{step}/result/{index}"] = np.stack([np.asarray(a) for a in arrays[index]])
            differing.append([])
            for parameter, result in self.changed:
                index = parameter - len(inputs)
                variables[index] = jax.make_array_from_single_device_arrays(
                    arrays[result][0].shape, self._shared, arrays[result]
                )
                copies = [np.asarray(one) for one in arrays[result]]
                differs = _differ(copies)
                differing[-1] += [index] if differs else []
                if index in self.request["kept"].get(str(step), ()):
                    name = f"{step}/variable/{index}"
                    found[name] = np.stack(copies if differs else copies[:1])
        seconds = time.perf_counter() - start
        np.savez(self.folder / FOUND, **found)
        return {
            "compile_seconds": self.compile_seconds,
            "run_seconds": seconds,
            "differing": differing,
            "changed": len(self.changed),
        }

    def _inputs(self, given: Any, step: int) -> list[Any]:
        """The batch of a step, of which each replica has its part of the first axis."""
        import jax

        names = [name for name in given.files if name.startswith(f"{step}/input/")]
        names.sort(key=lambda name: int(name.rpartition("/")[2]))
        return [jax.device_put(given[name], self._split) for name in names]


def _differ(copies: Sequence[np.ndarray]) -> bool:
    """Whether replicas' copies differ in any bit."""
    first = copies[0].tobytes()
    return any(one.tobytes() != first for one in copies[1:])


if __name__ == "__main__":
    main()
