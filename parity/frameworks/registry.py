"""Which framework a model is of: told by the names of its classes, before any is imported."""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any

from parity.errors import InputError
from parity.frameworks.framework import Framework
from parity.judge import MIXED


@dataclass(frozen=True)
class Entry:
    """A framework that models can be of.

    Args:
        name: as people know it.
        package: is imported wherever a model of it exists.
        base: full name of the class that all its models extend.
        open: gives the framework; it may import the package.
        held: full name of the class of what stands for a model once it is built, where that is
            another.
    """

    name: str
    package: str
    base: str
    open: Callable[[], Framework]
    held: str = ""


def _module(name: str) -> Callable[[], Any]:
    return lambda: importlib.import_module(name)


ENTRIES: dict[str, Entry] = {}


def register(entry: Entry) -> None:
    """Let models of one more framework be recognised; one of the same name is replaced."""
    ENTRIES[entry.name] = entry


# Before those that it builds on: on a backend, its layers are modules of that framework as well.
register(
    Entry(
        "Keras 3",
        "keras",
        "keras.src.layers.layer.Layer",
        _module("parity.frameworks.keras.framework"),
    )
)
register(
    Entry(
        "Flax nnx",
        "flax",
        "flax.nnx.module.Module",
        _module("parity.frameworks.flax.nnx.framework"),
    )
)
register(
    Entry(
        "Flax linen",
        "flax",
        "flax.linen.module.Module",
        _module("parity.frameworks.flax.linen.framework"),
        "parity.frameworks.flax.linen.capture.Held",
    )
)
register(
    Entry(
        "PyTorch",
        "torch",
        "torch.nn.modules.module.Module",
        _module("parity.frameworks.torch.framework"),
    )
)
register(
    Entry(
        "TensorFlow",
        "tensorflow",
        "tensorflow.python.module.module.Module",
        _module("parity.frameworks.tensorflow.framework"),
    )
)


WITHOUT_MODULES = {
    "torch.jit._script.ScriptModule": "a TorchScript program, scripted or traced",
    "torch.export.exported_program.ExportedProgram": "an exported program",
    "torch._dynamo.eval_frame.OptimizedModule": "a compiled model",
    "tensorflow.python.trackable.autotrackable.AutoTrackable": "a loaded SavedModel",
    "tensorflow.python.eager.polymorphic_function.polymorphic_function.Function": "a tf.function",
    "tensorflow.python.eager.polymorphic_function.concrete_function.ConcreteFunction": (
        "a concrete function"
    ),
    "tensorflow.lite.python.interpreter.Interpreter": "a TFLite interpreter",
    "onnxruntime.capi.onnxruntime_inference_collection.InferenceSession": "an ONNX session",
}
"""Classes of programs, which have no modules that could be watched, in words."""
COMPILED = "a compiled model"


def refuse_programs(model: Any) -> None:
    """Raises InputError for a program that was made of a model and is none itself."""
    bases = {f"{one.__module__}.{one.__qualname__}" for one in type(model).__mro__}
    what = next((text for base, text in WITHOUT_MODULES.items() if base in bases), None)
    if what is not None and not (entry_of(model) and "torch.nn" not in entry_of(model).base):
        raise InputError(
            f"{what} was given ({type(model).__name__}): it has no modules to watch",
            "models of Python code can be compared, whose modules are called one by one",
            "give the model that it was made of, with the same weights"
            + ("; among `executions`, `compile` compiles it" if what == COMPILED else ""),
        )


def entry_of(model: Any) -> Entry | None:
    """The entry of the framework that `model` is a model of, None where it is of none."""
    bases = {f"{one.__module__}.{one.__qualname__}" for one in type(model).__mro__}
    return next((one for one in ENTRIES.values() if {one.base, one.held} & bases), None)


def of(model: Any) -> Framework:
    """The framework that `model` is of; raises InputError for a model that nobody recognises."""
    refuse_programs(model)
    entry = entry_of(model)
    if entry is None:
        known = ", ".join(f"{one.name} ({one.base})" for one in ENTRIES.values())
        installed = [
            one.name
            for one in ENTRIES.values()
            if one.package in sys.modules or importlib.util.find_spec(one.package) is not None
        ]
        raise InputError(
            f"a {type(model).__module__}.{type(model).__qualname__} is no model of a known "
            "framework",
            f"recognised: {known}; installed: {', '.join(installed) or 'none'}",
            "give a model of one of these, or a function that builds one",
        )
    return entry.open()


def built(build: Callable[[], Any], dtype: str) -> tuple[Framework, Any]:
    """What `build` returns and its framework, built to compute in `dtype`.

    The precision is set for every framework that is loaded. Where `build` is the first to load its
    own, it is called once more.
    """
    loaded = [one for one in ENTRIES.values() if one.package in sys.modules]
    with ExitStack() as stack:
        for one in loaded:
            framework = one.open()
            known = dtype != MIXED or MIXED in getattr(framework, "PRECISIONS", ())
            stack.enter_context(framework.precision(dtype if known else "float32"))
            stack.enter_context(getattr(framework, "kept_in_building", nullcontext)(dtype))
        model = build()
    framework = of(model)
    if entry_of(model) not in loaded:
        return built(build, dtype)
    return framework, framework.converted(model, dtype)
