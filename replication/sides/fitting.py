"""The configuration that a checkpoint is of, where none is named."""

from pathlib import Path
from typing import TYPE_CHECKING

from maskformer.model import zoo
from parity.errors import InputError

if TYPE_CHECKING:
    from weight_conversion.unwrapping import Choice


def entry_that_fits(source: Path, choice: "Choice | None" = None) -> zoo.Entry:
    """The best known entry of the zoo whose every tensor is in the checkpoint `source`.

    Where none fits, a Hugging Face folder has a configuration of its own.

    Raises InputError for a file that cannot be read, and where nothing fits.
    """
    from weight_conversion.checkpoints import open_source
    from weight_conversion.plan import fitting

    with open_source(source, choice) as opened:
        fits = fitting(opened)
    if not fits and (source / "config.json").is_file():
        from maskformer.model.detectron2_config import resolve

        return resolve(None, source)
    if not fits:
        raise InputError(
            f"no config of the zoo fits {source}",
            "give --config NAME to see what differs, or --config-file X.yaml",
            "`parity inspect` shows what the file holds",
        )
    return zoo.get(fits[0])
