"""Pictures of a result: kept small beside it, and put inside the page as they are kept."""

import base64
import io
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reports.document import Picture

WIDEST = 1200  # pixels of one that is made smaller
LARGEST = 150_000  # bytes
QUALITIES = (85, 75, 60, 45, 30)
MOST = 12
"""Pictures of one result: a page stays below 5 MB."""

_TYPES = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg"}


def kept(name: str, content: bytes) -> tuple[str, bytes]:
    """The picture as it is where it is small, else as a JPEG of about `LARGEST` bytes at most.

    Raises ValueError for anything but a picture.
    """
    if len(content) <= LARGEST and _type(content):
        return name, content
    from PIL import Image

    from maskformer.data import image_files

    image = Image.fromarray(image_files.photograph(content, name))
    if image.width > WIDEST:
        height = round(image.height * WIDEST / image.width)
        image = image.resize((WIDEST, height), Image.Resampling.LANCZOS)
    for quality in QUALITIES:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality, optimize=True)
        if buffer.tell() <= LARGEST:
            break
    return jpeg_name(name), buffer.getvalue()


def jpeg_name(name: str) -> str:
    """What a picture is called that was made smaller."""
    return PurePosixPath(name).with_suffix(".jpg").as_posix()


def embedded(name: str, content: bytes) -> "Picture":
    """The picture as a data URI, its bytes unchanged."""
    kind = _type(content)
    if kind is None:
        raise ValueError(f"{name} is neither PNG nor JPEG")
    from maskformer.data import image_files
    from reports.document import Picture

    with image_files.opened(content, name, "picture") as picture:
        width, height = picture.size
    uri = f"data:{kind};base64,{base64.b64encode(content).decode()}"
    return Picture(PurePosixPath(name).stem, uri, width, height)


def _type(content: bytes) -> str | None:
    return next((kind for start, kind in _TYPES.items() if content.startswith(start)), None)
