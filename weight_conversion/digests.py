"""sha256 of arrays, of files and of the code that converts, as receipts state them."""

import hashlib
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

import numpy as np

from maskformer.model.zoo import md5_prefix
from parity.errors import InputError
from weight_conversion.receipt import File

_CHUNK = 1 << 20
_UNHASHED_BYTES = 16 << 20


def digest(array: np.ndarray) -> str:
    """sha256 of an array's bytes, in hexadecimal."""
    return hashlib.sha256(np.ascontiguousarray(array).reshape(-1).view(np.uint8)).hexdigest()


def digests_of_files(files: Sequence[Path], named: Path | None = None) -> tuple[File, ...]:
    """Name, size and sha256 of each file; checks the md5 prefix in the name of `named`.

    Raises:
        InputError: the md5 of `named` does not begin as its name says.
    """
    found = []
    for file in files:
        prefix = md5_prefix(file.name) if named and file == named else None
        sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
        with file.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                sha256.update(chunk)
                if prefix:
                    md5.update(chunk)
        if prefix and not md5.hexdigest().startswith(prefix):
            raise InputError(
                f"{file} is not the published file",
                f"its md5 begins with {md5.hexdigest()[:6]}, its name says {prefix}",
                "obtain the file again, or rename it if it is another file on purpose",
            )
        size = file.stat().st_size
        found.append(File(name=file.name, size=size, sha256=sha256.hexdigest(), md5_prefix=prefix))
    return tuple(found)


class HashingFile:
    """A new file that is only appended to; its sha256 is computed beside the writing.

    Use as a context manager; `hexdigest` is known when it is closed.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._sha256 = hashlib.sha256()
        self._worker = ThreadPoolExecutor(1)
        self._pending: deque[tuple[Future, int]] = deque()
        self._waiting = 0
        self.hexdigest = ""

    def write(self, data: bytes | memoryview) -> None:
        """Appends `data`, which must not change afterwards."""
        self._pending.append((self._worker.submit(self._sha256.update, data), len(data)))
        self._waiting += len(data)
        self._file.write(data)
        while self._waiting > _UNHASHED_BYTES:
            future, size = self._pending.popleft()
            future.result()
            self._waiting -= size

    def __enter__(self) -> "HashingFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._worker.shutdown()
        self._file.close()
        self.hexdigest = self._sha256.hexdigest()


def code_version() -> dict[str, str]:
    """The package's version, and the sha256 of the code that converts."""
    text = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        text.update(file.name.encode() + b"\0" + file.read_bytes())
    try:
        version = metadata.version("maskformer-replication")
    except metadata.PackageNotFoundError:
        version = "not installed"
    return {"version": version, "weight_conversion_sha256": text.hexdigest()}
