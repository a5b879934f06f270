"""Run in processes of their own: one update of the tiny model on two replicas, per framework.

`python -m parity_tests.replication.training.replica_runs tf|torch|one OUTPUT` writes loss,
gradient norm and all weights after the update to an npz file, for every normalisation and case.
"""

import itertools
import sys
from pathlib import Path

import numpy as np

CASES = ("plain", "empty")  # two images with targets; the second one without any
NORMALISATIONS = ("ddp_mean", "global")
SIZE = (64, 64)
WORLD = 2


def case(name):
    """Configuration, weights, images uint8 [2,H,W,3], sizes and targets."""
    from maskformer.data.images import batch_images, synthetic_image
    from maskformer.data.targets import synthetic_targets
    from maskformer.model import zoo
    from replication.sides.weights import load_weights

    config = zoo.model_config("tiny")
    images, sizes = batch_images([synthetic_image(*SIZE, i) for i in range(WORLD)], config)
    targets = synthetic_targets(config, sizes, SIZE, 1)
    if name == "empty":
        targets[1] = {"labels": np.zeros(0, np.int64), "masks": np.zeros((0, *SIZE), bool)}
    return config, load_weights("seeded:3", config), images, sizes, targets


def solver():
    """The published solver at its full rate, without warm-up."""
    from maskformer.model import zoo

    return zoo.get("tiny").solver


def torch_rank(rank, world, port, output):
    """One rank of `world` (1: no process group) does one update per normalisation and case."""
    import torch
    from torch import distributed
    from torch.nn.parallel import DistributedDataParallel

    from replication.sides.torch_side import build_reference, reference_batch
    from torch_reference.optimizer import build_optimizer
    from torch_reference.train_step import train_step

    torch.set_num_threads(1)
    if world > 1:
        distributed.init_process_group(
            "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world
        )
    found = {}
    for mode, name in itertools.product(NORMALISATIONS, CASES):
        config, weights, images, sizes, targets = case(name)
        model = build_reference(config, weights, "float64")
        model.criterion.normalisation = mode
        optimizer = build_optimizer(model, solver())
        mine = slice(rank, rank + 1) if world > 1 else slice(None)
        batch = reference_batch(config, images[mine], sizes[mine], targets[mine], "float64")
        plain = model
        if world > 1:
            model = DistributedDataParallel(model)
        result = train_step(model, optimizer, batch)
        total = result.total.clone()
        if world > 1:
            distributed.all_reduce(total)
        found[f"{mode}/{name}/total"] = total.numpy() / world
        found[f"{mode}/{name}/norm"] = result.gradient_norm.numpy()
        for key, parameter in plain.named_parameters():
            found[f"{mode}/{name}/weight/{key}"] = parameter.detach().numpy()
    if rank == 0:
        np.savez(output, **found)
    if world > 1:
        distributed.destroy_process_group()


def run_torch(output, world):
    """Two gloo ranks, or one process with the whole batch."""
    if world == 1:
        torch_rank(0, 1, 0, output)
        return
    from torch import multiprocessing

    from parity_tests.loopback import free_ports

    port = free_ports(1)[0]
    multiprocessing.spawn(torch_rank, (world, port, output), nprocs=world)


def run_tf(output):
    """Two replicas of a MirroredStrategy on logical CPUs."""
    import tf_impl  # noqa: F401  (selects tf_keras before TensorFlow is imported)

    import tensorflow as tf  # isort: skip

    from replication.process.logical_replicas import mirrored

    strategy = mirrored(2)

    from replication.sides.tf_side import build_port, keyed, port_batch
    from tf_impl import train_step as steps
    from tf_impl.optimizer import build_optimizer

    found = {}
    for mode, name in itertools.product(NORMALISATIONS, CASES):
        config, weights, images, sizes, targets = case(name)
        most = max(len(target["labels"]) for target in targets)
        with strategy.scope():
            model = build_port(config, weights, "float64")
            model.criterion.normalisation = mode
            optimizer = build_optimizer(model, solver(), "float64")
            optimizer.build(model.trainable_variables)

        def share(index, config=config, images=images, sizes=sizes, targets=targets, most=most):
            mine = slice(index, index + 1)
            return port_batch(config, images[mine], sizes[mine], targets[mine], "float64", most)

        shares = [share(index) for index in range(WORLD)]
        batch = tf.nest.map_structure(
            lambda *values: strategy.experimental_distribute_values_from_function(
                lambda context: values[context.replica_id_in_sync_group]
            ),
            *shares,
        )
        result = strategy.run(
            lambda batch, model=model, optimizer=optimizer: steps.train_step(
                model, optimizer, batch
            ),
            args=(batch,),
        )
        totals = strategy.experimental_local_results(result.total)
        found[f"{mode}/{name}/total"] = np.mean([float(total) for total in totals])
        norms = [float(norm) for norm in strategy.experimental_local_results(result.gradient_norm)]
        found[f"{mode}/{name}/norm"] = norms[0]
        found[f"{mode}/{name}/norms_differ"] = np.ptp(norms)
        copies = [
            [
                strategy.experimental_local_results(variable)[replica].numpy()
                for variable in model.trainable_variables
            ]
            for replica in range(WORLD)
        ]
        found[f"{mode}/{name}/copies_differ"] = sum(
            not np.array_equal(one, other) for one, other in zip(*copies, strict=True)
        )
        for key, array in keyed(model, copies[0]).items():
            found[f"{mode}/{name}/weight/{key}"] = array
    np.savez(output, **found)


if __name__ == "__main__":
    kind, target = sys.argv[1], Path(sys.argv[2])
    if kind == "tf":
        run_tf(target)
    else:
        run_torch(target, WORLD if kind == "torch" else 1)
