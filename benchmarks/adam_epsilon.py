"""What Adam's epsilon does at MaskFormer's clip norm: the plot of `docs/optimizer.md`.

The same random gradients, scaled as full-model clipping to 0.01 leaves them over the 45,012,038
parameters of `coco_r50`, go to `torch.optim.AdamW`, to this project's `TorchAdamW` and to Keras'
AdamW. Printed and drawn: how far the weights' total movement is from torch's, relative, in float64.

    python benchmarks/adam_epsilon.py --output docs/adam_epsilon.svg --json
"""

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track

PARAMETERS = 45_012_038
CLIP = 0.01
SIZE = 2_000
RATE = 1e-4
SHOWN = (1, 10, 100, 500, 1000)


def gradients(steps: int) -> np.ndarray:
    """float64 [steps,SIZE] with the root mean square that clipping leaves at most."""
    rms = CLIP / math.sqrt(PARAMETERS)
    return rms * np.random.default_rng(0).normal(size=(steps, SIZE))


def torch_path(grads: np.ndarray) -> np.ndarray:
    """Movement of the weights [steps,SIZE] under `torch.optim.AdamW`."""
    import torch

    parameter = torch.nn.Parameter(torch.zeros(SIZE, dtype=torch.float64))
    optimizer = torch.optim.AdamW([parameter], lr=RATE, weight_decay=0.0)
    path = []
    for grad in grads:
        parameter.grad = torch.tensor(grad)
        optimizer.step()
        path.append(parameter.detach().numpy().copy())
    return np.stack(path)


def tf_path(build: Callable[[], object], grads: np.ndarray, name: str) -> np.ndarray:
    """Movement of the weights [steps,SIZE] under a tf_keras optimizer."""
    import tensorflow as tf

    variable = tf.Variable(np.zeros(SIZE))
    optimizer = build()
    optimizer.build([variable])
    step = tf.function(lambda grad: optimizer.apply_gradients([(grad, variable)]))
    path = []
    for grad in track(grads, description=name, console=Console(stderr=True)):
        step(tf.constant(grad))
        path.append(variable.numpy())
    return np.stack(path)


def errors(steps: int) -> dict[str, np.ndarray]:
    """Relative distance [steps] of each optimizer's movement from torch's."""
    import tf_impl  # noqa: F401, I001  (selects tf_keras before TensorFlow is imported)
    import tensorflow as tf
    import tf_keras

    from tf_impl.optimizer import TorchAdamW

    class Rate(tf_keras.optimizers.schedules.LearningRateSchedule):
        """Constant and float64; a plain number would be rounded to float32."""

        def __call__(self, step: tf.Tensor) -> tf.Tensor:
            return tf.constant(RATE, tf.float64)

    keras = tf_keras.optimizers.AdamW
    optimizers = {
        "Keras AdamW, its default 1e-7": lambda: keras(Rate(), weight_decay=0.0),
        "Keras AdamW, epsilon 1e-8": lambda: keras(Rate(), weight_decay=0.0, epsilon=1e-8),
        "TorchAdamW, epsilon 1e-8": lambda: TorchAdamW(Rate(), 0.0),
    }
    grads = gradients(steps)
    expected = torch_path(grads)
    norm = np.linalg.norm(expected, axis=1)
    return {
        name: np.linalg.norm(tf_path(build, grads, name) - expected, axis=1) / norm
        for name, build in optimizers.items()
    }


def draw(curves: dict[str, np.ndarray], output: Path) -> None:
    """Write the plot, whole or not at all; equal curves give equal bytes."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update({"svg.hashsalt": "adam_epsilon", "svg.fonttype": "none"})
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for (name, curve), style in zip(curves.items(), ("-", "--", ":"), strict=True):
        steps = np.arange(1, len(curve) + 1)
        axes.loglog(steps, np.maximum(curve, 1e-17), style, label=name, linewidth=2)
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("distance from torch's movement, relative")
    axes.set_title("AdamW under a clip norm of 0.01 over 45 M parameters", fontsize=11)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="center right")
    partial = output.with_name(output.name + ".part")
    figure.savefig(partial, format=output.suffix.lstrip("."), metadata={"Date": None})
    partial.replace(output)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("docs/adam_epsilon.svg"))
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    curves = errors(arguments.steps)
    draw(curves, arguments.output)
    shown = [step for step in SHOWN if step <= arguments.steps]
    table = {
        name: {step: float(curve[step - 1]) for step in shown} for name, curve in curves.items()
    }
    if arguments.json:
        print(json.dumps(table, indent=2))
        return
    for name, values in table.items():
        print(name, *(f"{step}: {value:.3g}" for step, value in values.items()), sep="  ")


if __name__ == "__main__":
    main()
