"""What is measured by `make bench`, by which command, and the aim of each figure."""

import sys
from dataclasses import dataclass

TORCH = ("torch eager", "torch compile")


@dataclass(frozen=True)
class Run:
    """A benchmark with its options, ended after so many seconds; a long one only on request."""

    name: str
    words: tuple[str, ...]
    seconds: float
    long: bool = False

    @property
    def command(self) -> str:
        """What measures it again."""
        return " ".join(("python", "-m", f"benchmarks.{self.module}", *self.words))

    @property
    def module(self) -> str:
        """The module of the benchmark."""
        return self.name.partition(":")[0]

    def child(self) -> list[str]:
        """The command line of its process."""
        return [sys.executable, "-m", f"benchmarks.{self.module}", *self.words]


@dataclass(frozen=True)
class Aim:
    """A figure of a run: the median of `of` in `case`, over the best of `against`, and its aim."""

    name: str
    run: str
    case: str
    of: str
    aim: float
    against: tuple[str, ...] = ()
    larger: bool = False
    unit: str = "x"


RUNS = (
    Run("first_value", ("--rounds", "5", "--demo"), 600),
    Run("forward", ("--rounds", "3", "--no-audit"), 300),
    Run("train_step", ("--rounds", "3", "--no-memory"), 420),
    Run("training_throughput", ("--rounds", "1", "--steps", "30"), 240),
    Run("convert", ("--config", "coco_r50", "--repeats", "3"), 240),
    Run("convert:swin", ("--config", "coco_swin_large", "--repeats", "1"), 240),
    Run("input_pipeline", ("--images", "16", "--rounds", "3"), 240),
    Run("metrics", ("--pairs", "200", "--compared", "1"), 120),
    Run("assignment", ("--layers", "1", "--repeats", "7", "--skip-model-garden"), 120),
    Run("growth", ("--rounds", "3"), 420),
    Run("gpu_step", (), 300),
    Run("forward:audit", ("--rounds", "1"), 900, long=True),
    Run("audit_cost", ("--config", "coco_r50", "--size", "480x640", "--rounds", "1"), 1800, True),
    Run("matching", ("--rounds", "3"), 300, long=True),
    Run("frameworks", ("--rounds", "3"), 2400, long=True),
    Run("whole:faults", ("faults",), 3600, long=True),
    Run("whole:tests", ("tests",), 3600, long=True),
)


def _aims() -> tuple[Aim, ...]:
    forward, step = "coco_r50 480x640", "coco_r50 256x256 batch 2"
    convert, problems = "convert", "16 problems 100x"
    return (
        Aim("`parity --help`", "first_value", "start", "help", 0.5, unit="s"),
        Aim("start of a verb", "first_value", "start", "start of a verb", 1.5, unit="s"),
        Aim("`parity inspect`, 1 GB", "first_value", "start", "inspect 1 GB", 1.0, unit="s"),
        Aim("demo, first verdict", "first_value", "demo", "first verdict", 60, unit="s"),
        Aim("demo, complete", "first_value", "demo", "complete", 300, unit="s"),
        Aim("forward, TF graph to torch's best", "forward", forward, "tf graph", 0.9, TORCH),
        Aim("forward, TF XLA to torch's best", "forward", forward, "tf xla", 0.9, TORCH),
        *(
            Aim(
                f"inference with predictions, {name.replace('tf', 'TF')} to torch's best",
                *("forward", f"{forward}, predictions", name, 1.0, TORCH),
            )
            for name in ("tf graph", "tf xla")
        ),
        Aim("training step, TF graph to torch's best", "train_step", step, "tf graph", 0.85, TORCH),
        Aim("training step, TF XLA to torch's best", "train_step", step, "tf xla", 0.95, TORCH),
        Aim(
            "first training step, TF graph",
            *("train_step", f"{step}, first step", "tf graph", 19.5),
            unit="s",
        ),
        Aim(
            "first training step, TF XLA",
            *("train_step", f"{step}, first step", "tf xla", 53),
            unit="s",
        ),
        Aim(
            "images a second of `parity train`, TF to torch",
            *("training_throughput", "scenes_tiny", "tf", 1.0, ("torch",)),
            larger=True,
        ),
        *(
            Aim(
                f"convert {config}, {way}, to plain load and save",
                *(run, config, f"{convert} {way}", aim, ("plain safetensors -> safetensors",)),
            )
            for run, config, aim in (
                ("convert", "coco_r50", 2.0),
                ("convert:swin", "coco_swin_large", 1.5),
            )
            for way in ("safetensors -> tf", "tf -> safetensors")
        ),
        *(
            Aim(
                f"images a second of the input, {mapper}, TF to torch",
                *("input_pipeline", mapper, "tf fast", 1.5, ("torch",)),
                larger=True,
            )
            for mapper in ("detr_panoptic", "mask_former_semantic")
        ),
        *(
            Aim(title, "metrics", case, "ours", 500, larger=True, unit="images/s")
            for title, case in (
                ("panoptic quality, a core", "panoptic_quality"),
                ("mean IoU, a core", "mean_iou"),
            )
        ),
        Aim(
            "assignment, 16 problems 100x100, to scipy",
            *("assignment", f"{problems}100", "tf_impl (XLA)", 2.0, ("scipy, in a loop",)),
        ),
        Aim(
            "assignment, 16 problems 40x100, to scipy",
            *("assignment", f"{problems}40", "tf_impl (XLA)", 1.0, ("scipy, in a loop",)),
        ),
        Aim(
            "captures and comparisons of an audit to its plain forwards",
            *("forward:audit", f"{forward}, audit", "audit", 2.0, ("plain",)),
        ),
        Aim(
            "an audit with isolation to one without",
            *("audit_cost", forward, "audit --isolate", 1.3, ("audit",)),
        ),
        Aim(
            "`parity match` of coco_r50",
            *("matching", "coco_r50", "match", 5),
            unit="s of the processor",
        ),
        Aim(
            "audit of the Mixer, Keras 3 on TensorFlow to tf_keras",
            *("frameworks", "keras tensorflow", "keras tensorflow", 1.5, ("tf_keras",)),
        ),
        Aim("`parity faults run --all`", "whole:faults", "whole", "faults", 12 * 60, unit="s"),
        Aim("`make test`", "whole:tests", "whole", "tests", 8 * 60, unit="s"),
    )


AIMS = _aims()
