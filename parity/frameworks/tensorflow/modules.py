"""The modules of a TensorFlow model by path, and what of Keras is no module."""

import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import tensorflow as tf

BOOKS = """
    _auto_get_config _auto_track_sub_layers _call_spec _callable_losses _checkpoint
    _cluster_coordinator _compile_config _compiled_trainable_state _created_nodes
    _distribution_strategy _dtype_policy _feed_inputs _inbound_nodes_value _initial_weights
    _input_coordinates _input_layers _input_spec _layer_call_argspecs _layout_map _losses _metrics
    _nested_inputs _nested_outputs _network_nodes _nodes_by_depth _non_trainable_weights
    _obj_reference_counts_dict _outbound_nodes_value _output_coordinates _output_layers
    _saved_model_arg_spec _saved_model_inputs_spec _self_extra_variables _self_name_based_restores
    _self_saveable_object_factories _self_setattr_tracking _self_tracked_trackables
    _self_unconditional_checkpoint_dependencies _self_unconditional_deferred_dependencies
    _self_unconditional_dependency_names _self_update_uid _test_counter _thread_local
    _train_counter _trainable_weights _updates compiled_loss compiled_metrics history loss optimizer
"""
"""Attributes in which Keras keeps its own books of a layer or a model."""


def named_modules(root: tf.Module, *, private: bool = True) -> dict[str, tf.Module]:
    """Every module below `root` by the path of attributes and indices that leads to it.

    The order is that in which attributes were set, as in `torch.nn.Module.named_modules`; a module
    reached twice keeps its first path. Those in which Keras keeps its own books are left out, and
    without `private` all whose name begins with `_`.
    """
    found: dict[str, tf.Module] = {}
    met: set[int] = set()

    def visit(value: Any, path: str) -> None:
        if isinstance(value, tf.Module):
            if id(value) in met or _is_metric(value):
                return
            met.add(id(value))
            if callable(value):
                found[path] = value
            children = _children(value, private)
        elif isinstance(value, dict):
            children = list(value.items())
        elif isinstance(value, list | tuple):
            children = list(enumerate(value))
        else:
            return
        for name, child in children:
            visit(child, f"{path}.{name}" if path else str(name))

    visit(root, "")
    return found


def _children(module: tf.Module, private: bool) -> list[tuple[str, Any]]:
    keras = sys.modules.get("tf_keras")
    if keras is not None and isinstance(module, keras.Sequential):
        return [(str(index), layer) for index, layer in enumerate(module.layers)]
    if keras is not None and isinstance(module, keras.Model) and module._is_graph_network:
        return [(layer.name, layer) for layer in module.layers]
    books = set(BOOKS.split())
    return [
        (name, value)
        for name, value in vars(module).items()
        if name not in books and (private or not name.startswith("_"))
    ]


def is_symbolic(argument: Any) -> bool:
    """Whether Keras is only building a functional graph with this argument."""
    keras = sys.modules.get("tf_keras")
    return keras is not None and tf.is_tensor(argument) and keras.backend.is_keras_tensor(argument)


def _is_container(module: tf.Module) -> bool:
    keras = sys.modules.get("tf_keras")
    return (
        keras is not None
        and isinstance(module, keras.Model)
        and (isinstance(module, keras.Sequential) or module._is_graph_network)
    )


def _is_metric(module: tf.Module) -> bool:
    keras = sys.modules.get("tf_keras")
    return keras is not None and isinstance(module, keras.metrics.Metric)


def takes_training(module: tf.Module) -> bool:
    """Whether a call of the module can be told that it does not train."""
    return "training" in inspect.signature(getattr(module, "call", module)).parameters


@contextmanager
def at_rest() -> Iterator[None]:
    """Inside it, layers of Keras that are not told whether they train do not, whatever their own
    default is."""
    keras = sys.modules.get("tf_keras")
    if keras is None:
        yield
        return
    with keras.src.backend.deprecated_internal_learning_phase_scope(0):
        yield


def call_signature(module: tf.Module) -> inspect.Signature:
    """The signature that calls of a module follow, without self."""
    call = getattr(module, "call", None)
    if call is not None:
        signature = inspect.signature(call)
        if _is_container(module):  # besides inputs and training, Keras passes masks of its own
            parameters = [p for p in signature.parameters.values() if p.name != "mask"]
            return signature.replace(parameters=parameters)
        return signature
    # The class' own __call__, watched just now, is unwrapped by inspect.
    signature = inspect.signature(type(module).__call__)
    return signature.replace(parameters=list(signature.parameters.values())[1:])
