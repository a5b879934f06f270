"""A folder that receives its files all at once, when everything that belongs in it is complete."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def output_folder(out: Path | None) -> Iterator[Path]:
    """Yields a temporary folder whose entries move into `out` when the block ends without an error.

    Entries of the same names that `out` already has are replaced, others stay. Without `out` the
    temporary folder and its entries are removed at the end.
    """
    if out is None:
        with tempfile.TemporaryDirectory(prefix="parity-") as folder:
            yield Path(folder)
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}.", suffix=".partial"))
    try:
        yield temporary
        out.mkdir(exist_ok=True)
        for entry in sorted(temporary.iterdir()):
            target = out / entry.name
            if target.is_dir():
                shutil.rmtree(target)
            os.replace(entry, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
