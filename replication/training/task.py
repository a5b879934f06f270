"""The claim on the Model Garden's task: of a batch of its pipeline it makes the audited step."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from maskformer.family import family_of
from parity.claims import Claim, Place, margin_claim
from parity.comparing.examples import differing
from parity.training.sides import NORM
from parity.training.updates import update_cause, update_verdicts, updated
from replication.training.port import PortStep, noted_seeds
from replication.training.reference import ReferenceStep

INPUTS_OF = "tiny"  # the zoo entry whose input settings the task is given; no image is read
STEPS = 2


def task_claim(
    reference: ReferenceStep, port: PortStep, update: Mapping[str, Any], command: str
) -> Claim:
    """That `MaskFormerTask` hands its batch on, updates as the reference does, and logs its losses.

    Its step is called with the reference's gradients in place of those it would find, so that
    nothing is computed twice; where the claim on the `update` fails, this one inherits it.
    """
    inputs, calls, logged, exact = _inputs(reference), [], [], reference.updates
    given = [port.found]

    def noted(model: Any, batch: Any, training: bool = False) -> Any:
        calls.append((batch, training, _dropout_seed()))
        return given[0]

    def updating(optimizer: Any, held: Mapping[str, Any]) -> np.ndarray:
        given[0] = port.given(held)
        logged.append(task.train_step(inputs, port.model, optimizer))
        return logged[-1]["gradient_norm"].numpy()

    task, settings = _task(reference, noted)
    task._model = port.model
    side = dataclasses.replace(
        port.side, make=lambda model: task.create_optimizer(settings), updating=updating
    )
    after, _, _ = updated(side, STEPS * [*exact.gradients], exact.before)
    verdicts = update_verdicts(exact, after[:1])
    logs = logged[0]
    wrong = [*_wrong_calls(port, calls), *_wrong_logs(port, logs)]
    wrong += _wrong_validation(port, task, inputs)
    one = margin_claim(
        "train_task",
        "The Model Garden's task makes the same step of the same batch",
        verdicts,
        "largest gap of a weight, or of the norm before clipping, in units of its limit, that of "
        "the claim on the update; the batch that the step is given must be the same, the losses "
        "that are logged those of the step, and dropout is drawn anew in every step",
        command,
        wrong,
    )
    if not wrong and update.verdict == "fails":
        return one.located(Place.inherits("the update"))
    if wrong:
        return one.located(Place.at("task", wrong[0]), _cause(wrong))
    moved = [key for key, verdict in verdicts.items() if verdict.fails and key != NORM]
    count = f"{len(moved)} of {len(exact.trained)} parameters"
    place = f"{count}, such as {moved[0]}" if moved else NORM
    return one.located(Place.at("task", place), update_cause(exact, port.side, after[:1]))


def _task(reference: ReferenceStep, find: Callable[..., Any]) -> tuple[Any, Any]:
    """The task in float64, with the gradients that `find` gives; its optimizer's settings."""
    from maskformer.model import zoo
    from tf_impl.model_garden.experiments import experiment
    from tf_impl.model_garden.task import MaskFormerTask

    class Given(MaskFormerTask):
        """The task, but for what it updates by."""

        def gradients(self, model: Any, batch: Any, training: bool = False) -> Any:
            return find(model, batch, training)

    params = experiment(
        dataclasses.replace(
            zoo.get(INPUTS_OF),
            name=reference.config.name,
            model=reference.config,
            solver=reference.solver,
        )
    )
    return Given(params.task, policy="float64"), params.trainer.optimizer_config


def _inputs(reference: ReferenceStep) -> dict[str, Any]:
    """The batch as `tf_impl.dataset.training_dataset` gives it; segments for any kind of head."""
    import tensorflow as tf

    from maskformer.data.targets import synthetic_targets
    from tf_impl.matcher import pad_targets

    config, images, sizes = reference.config, reference.images, reference.sizes
    segments = synthetic_targets(config, sizes, images.shape[1:3])
    room = 1 + max(len(one["labels"]) for one in segments)
    targets = pad_targets(segments, room)
    return {
        "images": tf.constant(images),
        "sizes": tf.constant(sizes, tf.int32),
        "target_map": targets.masks,
        "class_ids": targets.classes,
        "valid": targets.valid,
        "overflow": targets.dropped,
        "index": tf.range(len(images), dtype=tf.int64),
    }


def _dropout_seed() -> tuple[int, ...] | None:
    """The seed that the next dropout mask would be drawn from; None where none is set."""
    import tensorflow as tf

    from tf_impl.layers import dropout

    with noted_seeds() as seeds:
        dropout(tf.zeros([1]), 0.5, True)
    return seeds[0] if seeds else None


def _wrong_calls(port: PortStep, calls: list[tuple[Any, bool, Any]]) -> Iterator[str]:
    """What is not as it should be in the calls that the task made of the step's gradients."""
    if len(calls) != STEPS:
        yield f"{len(calls)} backward passes in {STEPS} steps"
        return
    batch, training, _ = calls[0]
    yield from differing({"images": batch.images, "sizes": batch.sizes}, port.batch._asdict())
    names = getattr(port.batch.targets, "_fields", None)
    if names is None:
        yield from differing({"targets": batch.targets}, {"targets": port.batch.targets})
    else:
        yield from differing(batch.targets._asdict(), port.batch.targets._asdict())
    if not training:
        yield "training is False"
    seeds = [seed for _, _, seed in calls]
    if None in seeds:
        yield "dropout has no seed"
    elif len(set(seeds)) < len(seeds):
        yield "dropout has one seed in all steps"


def _wrong_logs(port: PortStep, logs: Mapping[str, Any]) -> Iterator[str]:
    expected = {"loss": port.found.total, **port.found.losses}
    plain = sum(map(float, port.found.losses.values()))
    for name, value in expected.items():
        if name not in logs:
            yield f"{name} is not logged"
        elif float(logs[name]) == float(value):
            continue
        elif name == "loss" and abs(float(logs[name]) - plain) <= 1e-9 * plain:
            yield f"logged {name}, the losses are summed without their weights"
        else:
            yield f"logged {name}, {float(logs[name]):.6g} instead of {float(value):.6g}"


def _wrong_validation(port: PortStep, task: Any, inputs: Mapping[str, Any]) -> Iterator[str]:
    """What is not as it should be in the call of the model, and the outputs of evaluation."""
    calls = []

    def model(images: Any, sizes: Any = None, training: Any = None) -> Any:
        calls.append((images, sizes, training))
        return port.found.outputs

    outputs = task.validation_step(inputs, model)
    given = {"images": calls[0][0], "sizes": calls[0][1]}
    for text in differing(given, port.batch._asdict()):
        yield f"validation: {text}"
    if calls[0][2]:
        yield "validation: training is True"
    for name, value in family_of(port.model.config).outputs.last(port.found.outputs).items():
        if name not in outputs or not np.array_equal(outputs[name], value):
            yield f"validation: {name}"


def _cause(wrong: list[str]) -> str | None:
    """The first text that says by itself what the mistake is."""
    telling = (
        "training is",
        "dropout has",
        "not logged",
        "backward passes",
        "in reverse",
        "summed",
    )
    return next((text for text in wrong if any(one in text for one in telling)), None)
