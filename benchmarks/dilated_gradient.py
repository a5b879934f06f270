"""What a TPU's compiler counts of the two gradients of dilated convolutions.

    python -m benchmarks.dilated_gradient --config ade20k_r101c --image-size 512x512

The training step is lowered and compiled twice: with the gradient of dilated convolutions that XLA
has, which a TPU gets, and with that of plain convolutions of interleaved rows and columns, which
processors get. Counted are arithmetic, bytes moved, memory, and the roofline of both.
"""

import argparse

import tf_impl
from maskformer.data.images import parse_size
from maskformer.model import zoo
from replication.tpu.preflight import PRECISIONS
from tf_impl.optimizer import build_optimizer
from tf_impl.tpu.lowering import Shapes, lower_train_step
from tf_impl.tpu.preflight import GIB, compile_for

GRADIENTS = {"XLA's own": True, "interleaved": False}


def main() -> None:
    """Compiles both and prints a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="ade20k_r101c")
    parser.add_argument("--image-size", default="512x512", help="HxW of the padded images")
    parser.add_argument("--per-core-batch", type=int, default=4)
    parser.add_argument("--precision", choices=PRECISIONS, default="bf16")
    parser.add_argument("--topology", default="v5e:2x2")
    parser.add_argument("--effort", type=float, default=-1.0, help="of the compiler")
    arguments = parser.parse_args()

    entry = zoo.get(arguments.config)
    model = tf_impl.build(entry.model, PRECISIONS[arguments.precision])
    optimizer = build_optimizer(model, entry.solver, "float32")
    shapes = Shapes(arguments.per_core_batch, *parse_size(arguments.image_size), 100)
    for name, for_tpu in GRADIENTS.items():
        program = lower_train_step(model, optimizer, shapes, for_tpu=for_tpu)
        found = compile_for(program, arguments.topology, arguments.effort)
        if not found.compiles:
            print(f"{name}: {found.reason}", flush=True)
            continue
        print(
            f"{name}: {found.flops / 1e12:.3f} TFLOP, {found.bytes_accessed / 1e9:.2f} GB moved, "
            f"{found.hbm_used / GIB:.2f} GiB, {1e3 * found.roofline_seconds:.2f} ms at least",
            flush=True,
        )


if __name__ == "__main__":
    main()
