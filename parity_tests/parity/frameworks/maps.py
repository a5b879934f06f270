"""A small model of square layers in each framework, and mistakes in how it is mapped.

Run as a program, `python -m parity_tests.parity.frameworks.maps KIND`, it audits one kind beside
PyTorch with every mistake and prints what was found, a line of JSON each.
"""

import json
import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

import parity
from parity.frameworks import registry
from parity.frameworks.torch.weights import vary
from parity_tests.parity.frameworks.mixers import TensorFlowOps

KINDS = ("tf_keras", "keras tensorflow", "keras jax", "keras torch", "nnx", "linen", "torch")
WIDTH = 8
X = (np.random.default_rng(0).normal(size=(4, WIDTH)).astype(np.float32),)
LAYERS = {"inner": "first", "outer": "second", "twice": "shared"}
SOUND = "none"
DECLARED = ("layers exchanged", "calls exchanged", "kernel transposed")  # by a map
LOADED = ("weights exchanged", "order swapped", "kernel transposed")  # by who loads or calls


class Reference(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.shared = (nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.tanh(self.second(torch.tanh(self.first(x))))
        return self.shared(torch.tanh(self.shared(y)) + x)


def reference() -> Reference:
    torch.manual_seed(0)
    return vary(Reference().eval())


def called(model: Any, x: Any, tanh: Callable, swapped: bool) -> Any:
    """What each port computes."""
    before, after = (model.outer, model.inner) if swapped else (model.inner, model.outer)
    y = tanh(after(tanh(before(x))))
    return model.twice(tanh(model.twice(y)) + x)


def torch_port(swapped: bool) -> Any:
    class Port(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.outer, self.twice = (nn.Linear(WIDTH, WIDTH) for _ in range(3))

        def forward(self, x: Any) -> Any:
            return called(self, x, torch.tanh, swapped)

    return Port().eval()


def keras_port(swapped: bool, keras: Any, ops: Any) -> Any:
    class Port(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.outer, self.twice = (keras.layers.Dense(WIDTH) for _ in range(3))

        def call(self, x: Any) -> Any:
            return called(self, x, ops.tanh, swapped)

    model = Port()
    model(ops.zeros((1, WIDTH), dtype=keras.backend.floatx()))
    return model


def nnx_port(swapped: bool) -> Any:
    import jax.numpy as jnp
    from flax import nnx

    class Port(nnx.Module):
        def __init__(self) -> None:
            rngs = nnx.Rngs(0)
            self.inner, self.outer, self.twice = (
                nnx.Linear(WIDTH, WIDTH, rngs=rngs) for _ in range(3)
            )

        def __call__(self, x: Any) -> Any:
            return called(self, x, jnp.tanh, swapped)

    return Port()


def linen_port(swapped: bool, params: dict[str, Any] | None = None) -> Any:
    import jax
    import jax.numpy as jnp
    from flax import linen

    class Port(linen.Module):
        def setup(self) -> None:
            self.inner, self.outer, self.twice = (linen.Dense(WIDTH) for _ in range(3))

        def __call__(self, x: Any) -> Any:
            return called(self, x, jnp.tanh, swapped)

    return Port().bind({"params": params} if params else Port().init(jax.random.key(0), X[0]))


def built(kind: str, swapped: bool = False) -> Any:
    """The port of a kind."""
    if kind == "torch":
        return torch_port(swapped)
    if kind in ("nnx", "linen"):
        return (nnx_port if kind == "nnx" else linen_port)(swapped)
    if kind == "tf_keras":
        import tf_keras

        import tf_impl  # noqa: F401  (chooses the Keras of TensorFlow)

        return keras_port(swapped, tf_keras, TensorFlowOps())
    import keras

    return keras_port(swapped, keras, keras.ops)


def declared(kind: str, fault: str) -> parity.Pair:
    """The pair with a map, and a mistake in it."""
    layers, calls, layouts = dict(LAYERS), {}, {}
    if fault == "layers exchanged":
        layers["inner"], layers["outer"] = layers["outer"], layers["inner"]
    elif fault == "calls exchanged":
        calls = {"shared": {0: 1, 1: 0}}
    elif fault == "kernel transposed":
        turned = parity.Layout(lambda array: array.T, lambda array: array.T)
        same = parity.Layout(lambda array: array, lambda array: array)
        layouts = {"second.weight": turned if kind == "torch" else same}
    return parity.Pair(
        reference(),
        lambda: built(kind),
        X,
        names=parity.Names(layers, calls=calls),
        weights=parity.Weights(layouts=layouts),
    )


def loaded(kind: str, fault: str) -> parity.Pair:
    """The pair without a map; whoever loads or writes the port makes a mistake."""
    model = reference()
    state = {key: one.detach().numpy() for key, one in model.state_dict().items()}
    if fault == "kernel transposed":
        state["second.weight"] = state["second.weight"].T
    layers = dict(LAYERS)
    if fault == "weights exchanged":
        layers["inner"], layers["outer"] = layers["outer"], layers["inner"]

    def build() -> Any:
        if kind == "linen":  # whose layers are not known by their kinds before a run
            params = {
                ours: {"kernel": state[f"{theirs}.weight"].T, "bias": state[f"{theirs}.bias"]}
                for ours, theirs in layers.items()
            }
            return linen_port(fault == "order swapped", params)
        port = built(kind, fault == "order swapped")
        for one in registry.of(port).variables(port).values():
            one.assign(one.layout.to_port(state[f"{layers[one.owner]}.{one.name}"]))
        return port

    return parity.Pair(model, build, X)


def outcome(pair: parity.Pair) -> dict[str, Any]:
    """What an audit says: its verdict, places and causes, failing claims, and what it notes."""
    found = parity.audit(pair, executions=(), quiet=True).to_json()
    return {
        "verdict": found["verdict"],
        "places": {one["path"]: one["cause"] for one in found["localisations"]},
        "failing": {
            one["id"]: [one.get("place"), one.get("cause")]
            for one in found["claims"]
            if one["verdict"] != "holds"
        },
        "told": found["not_verified"],
        "evidence": [one["evidence"] for one in found["localisations"]],
    }


if __name__ == "__main__":
    for name, make, faults in (("declared", declared, DECLARED), ("loaded", loaded, LOADED)):
        for one in (SOUND, *faults):
            result = outcome(make(sys.argv[1], one))
            print(json.dumps({f"{name}: {one}": result}), flush=True)
    os._exit(0)  # what frameworks do at their end takes seconds
