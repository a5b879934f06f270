"""What recorded names are called on a page."""

from reports.evidence import SIDES

LABELS = {
    "loss_ce": "class loss",
    "loss_mask": "mask loss, focal",
    "loss_dice": "mask loss, dice",
    "loss_sem_seg": "pixel loss",
    "no_object_rate": "no-object rate",
    "matched_iou": "matched IoU",
    "panoptic_quality": "PQ",
    "panoptic_quality_things": "PQ things",
    "panoptic_quality_stuff": "PQ stuff",
    "mean_iou": "mIoU",
}


def label(name: str) -> str:
    """A value of a training run (`maskformer.runs.run_record`)."""
    return LABELS.get(name, name.replace("_", " ").replace("/", ", "))


def difference(of: str) -> str:
    """Of two sides as it is recorded, "tf - torch": "TensorFlow minus PyTorch"."""
    return " minus ".join(SIDES.get(side, side) for side in of.split(" - "))
