"""What two arrays show, side by side, as a PNG: without any package but NumPy."""

import struct
import zlib

import numpy as np

LARGEST = 160  # pixels along the longer side of a panel
GAP = 4
COLOURS = (37, 91, 173)  # steps between the colours of classes, coprime to 256


def side_by_side(reference: np.ndarray, port: np.ndarray) -> bytes | None:
    """The reference, the port and where they differ, as a PNG; None for what is no picture.

    Args:
        reference, port: of one shape, [H,W], [H,W,C] or [C,H,W] with 1, 3 or 4 channels, or masks
            [N,H,W], of which the first that differs is drawn.
    """
    pair = _planes(np.asarray(reference), np.asarray(port))
    if pair is None:
        return None
    theirs, ours = pair
    apart = np.abs(ours.astype(np.float64) - theirs.astype(np.float64))
    if theirs.ndim == 2 and theirs.dtype.kind in "iu":
        panels = [_coloured(theirs), _coloured(ours), np.where(apart > 0, 255, 0)]
    else:
        low = float(np.nanmin(theirs.astype(np.float64)))
        span = float(np.nanmax(theirs.astype(np.float64))) - low or 1.0
        panels = [255 * (one.astype(np.float64) - low) / span for one in (theirs, ours)]
        panels.append(255 * apart / (float(np.nanmax(apart)) or 1.0))
    gap = np.full((panels[0].shape[0], GAP, 3), 255)
    parts = [panel for one in panels for panel in (_rgb(one), gap)][:-1]
    return png(np.clip(np.nan_to_num(np.concatenate(parts, 1)), 0, 255).astype(np.uint8))


def png(pixels: np.ndarray) -> bytes:
    """An image uint8 [H,W,3] as a PNG (RFC 2083)."""
    height, width, _ = pixels.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, -1)], 1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def _planes(theirs: np.ndarray, ours: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Both as [H,W] or [H,W,C], at most `LARGEST` pixels high and wide."""
    if theirs.shape != ours.shape or theirs.ndim not in (2, 3) or not theirs.size:
        return None
    if theirs.dtype.kind not in "fiub" or ours.dtype.kind not in "fiub":
        return None
    if theirs.ndim == 3 and theirs.shape[-1] not in (1, 3, 4):
        if theirs.shape[0] in (1, 3, 4) and theirs.dtype.kind != "b":
            theirs, ours = np.moveaxis(theirs, 0, -1), np.moveaxis(ours, 0, -1)
        else:
            index = int((theirs != ours).any(axis=(1, 2)).argmax())
            theirs, ours = theirs[index], ours[index]
    step = -(-max(theirs.shape[:2]) // LARGEST)
    return theirs[::step, ::step], ours[::step, ::step]


def _coloured(classes: np.ndarray) -> np.ndarray:
    return np.stack([(classes.astype(np.int64) * step + 40) % 256 for step in COLOURS], -1)


def _rgb(panel: np.ndarray) -> np.ndarray:
    channels = panel[..., None] if panel.ndim == 2 else panel[..., :3]
    return (
        np.broadcast_to(channels, (*channels.shape[:2], 3)) if channels.shape[-1] == 1 else channels
    )
