"""What TensorFlow's trainer reads: settings in the Model Garden's terms, records, a checkpoint."""

import json
from pathlib import Path
from typing import Any

from maskformer.data.evaluation_data import open_data
from maskformer.runs.run_settings import RunSettings
from parity.files import replacing
from replication.console.progress import images_shown
from replication.sides.implementation import TrainerPlace

RECORDS = "records"

_IMAGES_PER_SHARD = 1000


def trainer(settings: RunSettings, place: TrainerPlace) -> list[str]:
    """The words of `tf_impl.train`, after everything that it reads is written."""
    from tf_impl.model_garden.experiments import experiment_name

    overrides = place.folder / "overrides.yaml"
    with replacing(overrides) as temporary:
        temporary.write_text(json.dumps(_overrides(settings, place)), encoding="utf-8")
    return [
        "tf_impl.train",
        f"--experiment={experiment_name(settings.config)}",
        "--mode=train_and_eval",
        f"--model_dir={place.folder}",
        f"--config_file={overrides}",
    ]


def _overrides(settings: RunSettings, place: TrainerPlace) -> dict[str, Any]:
    """The settings in the Model Garden's terms (JSON is YAML), records and weights written."""
    from tf_impl.model_garden.experiments import optimization_of

    records = {
        split: str(_write_records(settings, split, place))
        for split in (settings.train_split, settings.eval_split)
    }
    return {
        "task": {
            "train_data": {
                "input_path": records[settings.train_split],
                "global_batch_size": settings.batch,
                "capacity": settings.capacity,
            },
            "validation_data": {"input_path": records[settings.eval_split]},
            "seed": settings.seed,
            "normalisation": settings.normalisation,
            "micro_batches": settings.micro_batches,
            "init_checkpoint": _tf_weights(settings, place.shared),
        },
        "trainer": {
            "train_steps": settings.steps,
            "steps_per_loop": settings.record_every,
            "summary_interval": settings.record_every,
            "checkpoint_interval": settings.checkpoint_every or settings.steps,
            "validation_interval": settings.eval_every or settings.steps,
            "max_to_keep": settings.keep,
            "optimizer_config": optimization_of(settings.solver_config()).as_dict(),
        },
        "runtime": {
            "deterministic": True,
            "threads": place.threads,
            "mixed_precision_dtype": settings.dtype,
        },
    }


def _write_records(settings: RunSettings, split: str, place: TrainerPlace) -> Path:
    """The folder of a split's records; an interrupted packing is continued."""
    from tf_impl.storage.tfrecord import write_records

    data = open_data(Path(settings.data), split, settings.entry.model)
    folder = place.shared / RECORDS / data.split
    shards = -(-len(data.images) // _IMAGES_PER_SHARD)
    with images_shown(f"pack {data.split}", len(data.images), place.visible) as advance:
        write_records(data.images, folder, data.split, shards, advance=advance)
    return folder


def _tf_weights(settings: RunSettings, out: Path) -> str:
    """The prefix of a TensorFlow checkpoint of the initial weights, empty without any."""
    if settings.initial is None:
        return ""
    from weight_conversion.convert import convert
    from weight_conversion.tf_checkpoint import prefix_of

    target = out / "initial_tf"
    if not target.is_dir():
        convert(Path(settings.initial), target, "tf", settings.entry.model, dtype=settings.dtype)
    return str(prefix_of(target))
