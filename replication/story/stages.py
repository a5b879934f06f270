"""The stages of `parity demo`: each measures one part of the story and records what it found."""

import dataclasses
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from parity.records import write_json
from parity.steps import Steps

if TYPE_CHECKING:
    from parity.auditing.result import AuditResult
    from parity.results import Result

PHOTOGRAPHS = ("china.jpg", "flower.jpg")
SMALL, TRAINED = "tiny", "scenes_tiny"
SIZE, TARGETS = "64x96", 8
TRAJECTORY_SIZE = "32x64"
TOPOLOGY = "v5e:2x2"
FAULTS = (
    "layer-norm-epsilon-1e-6",
    "no-object-first",
    "matcher-focal-alpha",
    "loss-no-object-0.001",
    "adam-epsilon-1e-7",
    "milestone-late",
)


@dataclass(frozen=True)
class Scale:
    """How much a demo does; the function is the same at any size, a small one is over sooner.

    `config` is converted, and audited on photographs with `short_side` pixels by `executions`.
    Scenes are `scene_size` pixels; `pictures` are drawn of those that are predicted worst.
    """

    command: str
    config: str
    short_side: int
    executions: tuple[str, ...]
    trajectory_steps: int
    scenes: int
    held_out: int
    scene_size: int
    training_steps: int
    pictures: int


FULL = Scale(
    "parity demo",
    config="coco_r50",
    short_side=320,
    executions=("eager", "graph", "xla"),
    trajectory_steps=60,
    scenes=64,
    held_out=32,
    scene_size=160,
    training_steps=30,
    pictures=4,
)
SHORT = Scale(
    "parity demo --small",
    config=TRAINED,
    short_side=96,
    executions=("eager",),
    trajectory_steps=12,
    scenes=24,
    held_out=12,
    scene_size=96,
    training_steps=12,
    pictures=2,
)


@dataclass(frozen=True)
class Story:
    """Where a demo works: `out` is the folder of the report, `kept` the folder in it for results,
    data, runs and checkpoints, so that commands in the report can be run. `first` is told what is
    known of the model as soon as it has run in both precisions."""

    kept: Path
    out: Path
    steps: Steps
    scale: Scale = FULL
    first: "Callable[[AuditResult], None] | None" = None

    @property
    def command(self) -> str:
        """What tells this story again."""
        return f"{self.scale.command} --out {shlex.quote(str(self.out))}"

    @property
    def data(self) -> Path:
        """The folder of the procedural data set."""
        return self.kept / "scenes"

    def record(self, result: "Result", name: str) -> Path:
        """Writes a result as its command would."""
        return write_json(result.to_json(), self.kept, name)


@dataclass(frozen=True)
class Stage:
    """One part: `run` returns the files or folders that the report is made of.

    `steps` is how many of `Story.steps` it announces. About what it takes on two cores, at either
    scale, serves to say how long the rest will take. `beside`: it needs nothing of other stages and
    works in `Story.kept` alone, so that a process of its own may run it at the same time.
    """

    name: str
    title: str
    steps: int
    seconds_full: float
    seconds_small: float
    run: Callable[[Story], list[Path]]
    beside: bool = False

    def seconds(self, scale: Scale) -> float:
        """About what it takes at this scale."""
        return self.seconds_full if scale.config == FULL.config else self.seconds_small


def photographs() -> tuple[Path, ...]:
    """The two photographs that scikit-learn ships with its data sets."""
    from sklearn import datasets

    folder = Path(datasets.__file__).parent / "images"
    return tuple(folder / name for name in PHOTOGRAPHS)


def conversion(story: Story) -> list[Path]:
    """The weights as a file, converted for TensorFlow, and the receipt derived again."""
    from safetensors.numpy import save_file

    from maskformer.model import zoo
    from parity.errors import InputError
    from replication.sides.weights import load_weights
    from weight_conversion.convert import convert
    from weight_conversion.receipt import receipt_path
    from weight_conversion.verification import verify

    config = zoo.model_config(story.scale.config)
    source = story.kept / f"{config.name}.safetensors"
    target = story.kept / f"{config.name}_tf"
    with story.steps("convert the weights"):
        save_file(load_weights("seeded:0", config).state, source)
        convert(source, target, "tf", config)
    receipt = receipt_path(target, "tf")
    with story.steps("derive the receipt again from both files"):
        problems = verify(receipt)
    if problems:
        raise InputError(f"{receipt} does not hold", *problems[:2])
    return [receipt]


def forward(story: Story) -> list[Path]:
    """The model on two photographs, every layer and every module alone, in both precisions."""
    from maskformer.model import zoo
    from replication.forward.run import Request, audit

    request = Request(
        config=zoo.model_config(story.scale.config),
        weights="seeded:0",
        images=photographs(),
        short_side=story.scale.short_side,
        executions=story.scale.executions,
        isolate=True,
        capture_effect=True,
        first=story.first,
        command=story.command,
    )
    return [story.record(audit(request, story.steps), "audit.json")]


def training_step(story: Story) -> list[Path]:
    """Losses, matchings, gradients, each backward pass alone, and one update of a small model."""
    from maskformer.model import zoo
    from replication.training.step import training_result

    entry = zoo.get(SMALL)
    command = f"parity audit --config {SMALL} --size {SIZE} --train --isolate"
    result = training_result(entry.model, entry.solver, SIZE, command, story.steps, isolate=True)
    return [story.record(result, "training.json")]


def trajectory(story: Story) -> list[Path]:
    """Both models trained side by side in float64, and compared after every update."""
    from maskformer.model import zoo
    from replication.training.trajectory import CALM_RATE, Request, solver_for, trajectory

    steps = story.scale.trajectory_steps
    request = Request(
        config=zoo.model_config(SMALL),
        solver=solver_for(SMALL, str(CALM_RATE)),
        steps=steps,
        size=TRAJECTORY_SIZE,
        command=f"parity trajectory --config {SMALL} --steps {steps} "
        f"--size {TRAJECTORY_SIZE} --lr {CALM_RATE:g}",
    )
    with story.steps(f"{steps} updates on both sides"):
        result = trajectory(request)
    return [story.record(result, "trajectory.json")]


def scenes(story: Story) -> list[Path]:
    """A procedural data set in COCO's panoptic format."""
    from maskformer.scenes.scenes import write_scenes

    scale = story.scale
    with story.steps(f"draw {scale.scenes} scenes"):
        share = scale.held_out / scale.scenes
        write_scenes(story.data, scale.scenes, 0, size=scale.scene_size, val_share=share)
    return []


def training(story: Story) -> list[Path]:
    """Both trainers from the same weights on the same scenes, in float64, one after the other."""
    from replication.process.threads import told_threads
    from replication.runs.trainers import Request, train
    from replication.sides.side import SIDES

    given = {
        "config": TRAINED,
        "data": str(story.data),
        "steps": story.scale.training_steps,
        "record_every": 1,
        "dtype": "float64",  # in which so few updates amplify no rounding to another prediction
        "seed": 0,
    }
    request = Request(story.kept / "runs", SIDES, given, threads=told_threads(), visible=False)
    with story.steps(f"train both sides for {story.scale.training_steps} steps"):
        folders = train(request)
    return list(folders.values())


def evaluation(story: Story) -> list[Path]:
    """The weights that PyTorch reached, in both frameworks, on scenes that were held out."""
    from maskformer.model import zoo
    from replication.evaluation.run import Request, evaluate
    from replication.sides.side import REFERENCE, SIDES
    from weight_conversion.convert import convert

    entry, scale = zoo.get(TRAINED), story.scale
    (trained,) = (story.kept / "runs" / REFERENCE).glob("checkpoints/*/model.safetensors")
    weights = story.kept / "trained.safetensors"
    convert(trained, weights, "safetensors", entry.model, dtype="float32")
    request = Request(
        config=entry.model,
        inputs=dataclasses.replace(entry.inputs, min_size_test=96, max_size_test=192),
        weights=str(weights),
        data=story.data,
        sides=SIDES,
        worst=scale.pictures,
        command=story.command,
    )
    out = story.kept / "evaluation"
    with story.steps(f"both sides on {scale.held_out} scenes"):
        result = evaluate(request, out, visible=False)
    told = dataclasses.replace(
        result,
        weights=f"{TRAINED}, PyTorch, {scale.training_steps} steps",
        data=f"{scale.held_out} scenes of seed 0, about {scale.scene_size} pixels",
    )
    return [write_json(told.to_json(), out, "evaluation.json")]


def preflight(story: Story) -> list[Path]:
    """The small model's training step, compiled by the TPU's own compiler, without a TPU."""
    from maskformer.data.images import parse_size
    from maskformer.model import zoo
    from replication.tpu.preflight import Request, preflight

    request = Request(
        entry=zoo.get(SMALL),
        topologies=(TOPOLOGY,),
        size=parse_size(SIZE),
        targets=TARGETS,
        evaluation=False,
        command=f"parity preflight --config {SMALL} --topology {TOPOLOGY} --image-size {SIZE} "
        f"--targets {TARGETS} --no-evaluation",
    )
    with story.steps(f"lower and compile for {TOPOLOGY}"):
        result = preflight(request)
    return [story.record(result, "preflight.json")]


def faults(story: Story) -> list[Path]:
    """Mistakes that ports have, planted one after another: each must be found and named."""
    from replication.faults.lookup import CATALOGUE, chosen_faults
    from replication.faults.runs import Notes
    from replication.faults.score import fault_score

    case = {"config": SMALL, "size": "72x88", "catalogue": CATALOGUE}
    command = f"parity faults run {' '.join(FAULTS)}"
    result = fault_score(chosen_faults(FAULTS), Notes(None, case), command)
    return [story.record(result, "faults.json")]


STAGES = (
    Stage("forward", "compare every layer of {config} on two photographs", 12, 160, 45, forward),
    Stage("conversion", "convert {config}, with a receipt", 2, 5, 10, conversion),
    Stage("training_step", f"compare one training step of {SMALL}", 9, 100, 30, training_step),
    Stage("trajectory", f"compare updates of {SMALL}, step by step", 1, 135, 40, trajectory, True),
    Stage("scenes", "draw a data set of scenes", 1, 2, 2, scenes),
    Stage("training", f"train {TRAINED} on both sides", 1, 120, 80, training),
    Stage("evaluation", "evaluate the trained weights on both sides", 1, 8, 10, evaluation),
    Stage(
        "preflight", f"compile the training step for a TPU ({TOPOLOGY})", 1, 55, 75, preflight, True
    ),
    Stage("faults", f"plant {len(FAULTS)} faults", 0, 85, 60, faults, True),
)
