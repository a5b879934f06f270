"""Textures of the stuff in procedural scenes: sky, sea, grass, bricks and so on."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class Material:
    """How a kind of stuff looks.

    `paint(rng, height, width, top)` returns float32 [H,W,3] in 0..255; `top` is the row where the
    stuff starts, its horizon. `roughness` is how uneven its upper edge is, as a fraction of the
    image's height.
    """

    paint: Callable[[np.random.Generator, int, int, int], np.ndarray]
    roughness: float


def noise(
    rng: np.random.Generator, height: int, width: int, down: float, across: float
) -> np.ndarray:
    """Smooth noise float32 [H,W] in 0..1 whose features are about `down` x `across` pixels.

    Interpolated by Pillow in 8-bit integers, so that it is the same on every processor.
    """
    rows, columns = max(2, int(height / down) + 2), max(2, int(width / across) + 2)
    grid = Image.fromarray(rng.integers(0, 256, (rows, columns), dtype=np.uint8))
    size = (max(width, int(columns * across)), max(height, int(rows * down)))
    smooth = grid.resize(size, Image.Resampling.BICUBIC)
    return np.asarray(smooth)[:height, :width].astype(np.float32) / np.float32(255)


def clouds(rng: np.random.Generator, height: int, width: int, cell: float) -> np.ndarray:
    """Fractal noise float32 [H,W] in 0..1: four octaves, each half as large and half as strong."""
    total = np.zeros((height, width), np.float32)
    for octave in range(4):
        side = max(2.0, cell / 2**octave)
        total += noise(rng, height, width, side, side) * np.float32(0.5**octave)
    return total / np.float32(1.875)


def profile(rng: np.random.Generator, width: int) -> np.ndarray:
    """An uneven line float32 [W] in -1..1: hills with smaller bumps."""
    line = noise(rng, 2, width, 1, width / 4)[0] * np.float32(0.7)
    line = line + noise(rng, 2, width, 1, max(3.0, width / 24))[0] * np.float32(0.3)
    return line * 2 - 1


def _blend(low: np.ndarray, high: np.ndarray, weight: np.ndarray) -> np.ndarray:
    weight = weight[..., None]
    return low * (1 - weight) + high * weight


def _colour(rng: np.random.Generator, base: tuple[int, int, int], spread: float) -> np.ndarray:
    """A colour near `base`: brightness and each channel vary by up to `spread`."""
    value = np.array(base, np.float32) * np.float32(1 + spread * (2 * rng.random() - 1))
    return value * (1 + 0.5 * spread * (2 * rng.random(3) - 1)).astype(np.float32)


def _distance(height: int, top: int) -> np.ndarray:
    """How near each row is: 0 at the horizon, 1 at the bottom. float32 [H,1]."""
    rows = np.arange(height, dtype=np.float32)[:, None]
    return np.clip((rows - top) / np.float32(max(height - top, 1)), 0, 1)


def _perspective(texture: np.ndarray, top: int) -> np.ndarray:
    """A texture [H,W,...] seen in perspective: dense at the horizon, stretched near the viewer."""
    height, width = texture.shape[:2]
    near = _distance(height, top)[:, 0]
    rows = ((height - 1) * np.float32(1.15) * near / (near + np.float32(0.15))).astype(np.int32)
    scale = np.float32(0.25) + np.float32(0.75) * near
    columns = np.arange(width, dtype=np.float32) - np.float32(width / 2)
    columns = (columns[None] / scale[:, None] + np.float32(width / 2)).astype(np.int32) % width
    return texture[np.clip(rows, 0, height - 1)[:, None], columns]


def _sky(rng: np.random.Generator, height: int, width: int, top: int) -> np.ndarray:
    palettes = (
        ((70, 120, 200), (185, 210, 235)),
        ((150, 160, 175), (205, 205, 205)),
        ((95, 90, 140), (245, 175, 120)),
    )
    zenith, low = palettes[int(rng.integers(len(palettes)))]
    fall = np.arange(height, dtype=np.float32)[:, None] / np.float32(height * 0.7)
    fall = np.repeat(np.clip(fall, 0, 1), width, axis=1)
    base = _blend(_colour(rng, zenith, 0.15), _colour(rng, low, 0.1), fall)
    cover = np.float32(rng.uniform(0.35, 0.75))
    mass = clouds(rng, height, width, width / 2.5)
    weight = np.clip((mass - cover) * 5, 0, 1) * np.float32(0.85)
    return _blend(
        base, np.array((238, 238, 240), np.float32) * (0.75 + 0.25 * mass)[..., None], weight
    )


def _sea(rng: np.random.Generator, height: int, width: int, top: int) -> np.ndarray:
    deep, light = _colour(rng, (30, 75, 105), 0.25), _colour(rng, (110, 155, 170), 0.2)
    waves = noise(rng, height, width, 3, 28) * np.float32(0.6)
    waves = waves + noise(rng, height, width, 2, 9) * np.float32(0.4)
    waves = _perspective(waves, top)
    near = _distance(height, top)
    weight = np.clip(waves * np.float32(0.9) + (1 - near) * np.float32(0.35) - 0.1, 0, 1)
    water = _blend(deep, light, weight)
    foam = np.clip((waves - np.float32(0.8)) * 8, 0, 1)
    return _blend(water, np.array((225, 232, 235), np.float32), foam)


def _grass(rng: np.random.Generator, height: int, width: int, top: int) -> np.ndarray:
    dark, light = _colour(rng, (52, 84, 30), 0.25), _colour(rng, (125, 150, 62), 0.25)
    blades = noise(rng, height, width, 6, 2) * np.float32(0.55)
    patches = clouds(rng, height, width, width / 3) * np.float32(0.6)
    return _blend(dark, light, np.clip(_perspective(blades + patches, top) - 0.1, 0, 1))


def _sand(rng: np.random.Generator, height: int, width: int, top: int) -> np.ndarray:
    low, high = _colour(rng, (165, 140, 102), 0.15), _colour(rng, (226, 203, 160), 0.12)
    ripples = noise(rng, height, width, 7, 40) * np.float32(0.45)
    grain = noise(rng, height, width, 2, 2) * np.float32(0.3)
    dunes = clouds(rng, height, width, width / 2) * np.float32(0.45)
    return _blend(low, high, np.clip(_perspective(ripples + grain + dunes, top) - 0.1, 0, 1))


def _road(rng: np.random.Generator, height: int, width: int, top: int) -> np.ndarray:
    low, high = _colour(rng, (72, 72, 76), 0.2), _colour(rng, (138, 136, 134), 0.15)
    grain = noise(rng, height, width, 2, 2) * np.float32(0.4)
    wear = clouds(rng, height, width, width / 3) * np.float32(0.6)
    surface = _blend(low, high, np.clip(_perspective(grain + wear, top), 0, 1))
    near = _distance(height, top)
    rows = np.arange(height, dtype=np.float32)[:, None]
    columns = np.arange(width, dtype=np.float32)[None]
    middle = np.float32(width * rng.uniform(0.35, 0.65))
    lane = np.abs(columns - middle) < np.float32(0.012 * width) * near + np.float32(0.3)
    dash = (4 / (near + np.float32(0.12)) * np.float32(rng.uniform(0.8, 1.4))) % 1 < 0.55
    surface[lane & dash & (rows > top)] = _colour(rng, (215, 210, 195), 0.1)
    return surface


def _tree(rng: np.random.Generator, height: int, width: int, top: int) -> np.ndarray:
    dark, light = _colour(rng, (24, 42, 20), 0.3), _colour(rng, (98, 122, 50), 0.3)
    leaves = noise(rng, height, width, 3, 3) * np.float32(0.45)
    crowns = clouds(rng, height, width, max(8, width / 7)) * np.float32(0.9)
    return _blend(dark, light, np.clip(leaves + crowns - np.float32(0.3), 0, 1))


def _mountain(rng: np.random.Generator, height: int, width: int, top: int) -> np.ndarray:
    low, high = _colour(rng, (84, 88, 98), 0.25), _colour(rng, (156, 152, 150), 0.2)
    rock = clouds(rng, height, width, width / 4)
    slopes = noise(rng, height, width, 24, 7)
    value = np.clip(rock * np.float32(0.8) + slopes * np.float32(0.5) - 0.25, 0, 1)
    stone = _blend(low, high, value)
    rows = np.arange(height, dtype=np.float32)[:, None]
    snowline = np.float32(top + height * rng.uniform(-0.1, 0.1))
    snow = np.clip((snowline - rows + 60 * (rock - np.float32(0.5))) / 8, 0, 1)
    return _blend(stone, np.array((236, 240, 246), np.float32), snow)


def _bricks(rng: np.random.Generator, height: int, width: int, top: int) -> np.ndarray:
    base = (152, 82, 62) if rng.random() < 0.6 else (176, 160, 140)
    tall = int(rng.integers(6, 15))
    wide = int(tall * rng.uniform(1.8, 2.8))
    rows = np.arange(height)[:, None]
    course = rows // tall
    columns = np.arange(width)[None] + (course % 2) * (wide // 2)
    brick = columns // wide
    tint = rng.random((height // tall + 1, (width + wide) // wide + 1)).astype(np.float32)
    tone = np.float32(0.78) + np.float32(0.4) * tint[np.broadcast_to(course, brick.shape), brick]
    wall = _colour(rng, base, 0.2) * tone[..., None]
    wall = wall * (np.float32(0.8) + np.float32(0.35) * clouds(rng, height, width, 24))[..., None]
    joint = (rows % tall < max(1, tall // 7)) | (columns % wide < max(1, tall // 7))
    wall[joint] = _colour(rng, (186, 180, 170), 0.15)
    return wall


def _wood(rng: np.random.Generator, height: int, width: int, top: int) -> np.ndarray:
    low, high = _colour(rng, (104, 66, 38), 0.25), _colour(rng, (190, 142, 92), 0.2)
    near = _distance(height, top)
    columns = np.arange(width, dtype=np.float32)[None] - np.float32(width / 2)
    board = np.float32(width / rng.uniform(7, 13))
    across = columns / ((near * np.float32(0.85) + np.float32(0.15)) * board) + np.float32(64)
    index = across.astype(np.int32)
    tone = rng.random(512).astype(np.float32)[index % 512]
    grain = noise(rng, height, width, 30, 3)
    value = np.clip(tone * np.float32(0.6) + grain * np.float32(0.4), 0, 1)
    floor = _blend(low, high, value)
    floor[(across - index) < np.float32(0.05)] *= np.float32(0.5)
    return floor


PAINTERS: dict[str, Material] = {
    "floor-wood": Material(_wood, 0.0),
    "road": Material(_road, 0.005),
    "sand": Material(_sand, 0.03),
    "sea": Material(_sea, 0.002),
    "wall-brick": Material(_bricks, 0.0),
    "tree-merged": Material(_tree, 0.08),
    "sky-other-merged": Material(_sky, 0.0),
    "mountain-merged": Material(_mountain, 0.12),
    "grass-merged": Material(_grass, 0.02),
}
"""Painter of each kind of stuff, by COCO's name."""
