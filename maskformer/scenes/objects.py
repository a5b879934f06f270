"""The things in procedural scenes: drawn large with Pillow and then reduced, for smooth edges."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from maskformer.scenes.materials import noise

Point = tuple[float, float]


@dataclass(frozen=True)
class Drawing:
    """An object on its own: colours (RGB), mask (L, 0 or 255), and if it is lit as round."""

    colour: Image.Image
    mask: Image.Image
    is_round: bool


class _Pen:
    """Draws shapes into colour and mask at once, in units of the object's height, y downwards."""

    def __init__(self, tall: int, aspect: float, ground: tuple[int, int, int]) -> None:
        self.tall = tall
        size = (max(3, int(tall * aspect)), tall)
        self.colour = Image.new("RGB", size, ground)
        self.mask = Image.new("L", size, 0)
        self._on_colour = ImageDraw.Draw(self.colour)
        self._on_mask = ImageDraw.Draw(self.mask)

    def polygon(self, points: Sequence[Point], fill: tuple[int, int, int]) -> None:
        scaled = [(x * self.tall, y * self.tall) for x, y in points]
        self._on_colour.polygon(scaled, fill=fill)
        self._on_mask.polygon(scaled, fill=255)

    def ellipse(self, box: tuple[float, float, float, float], fill: tuple[int, int, int]) -> None:
        scaled = [side * self.tall for side in box]
        self._on_colour.ellipse(scaled, fill=fill)
        self._on_mask.ellipse(scaled, fill=255)

    def pie(
        self, box: tuple[float, float, float, float], start: int, end: int, fill: tuple
    ) -> None:
        scaled = [side * self.tall for side in box]
        self._on_colour.pieslice(scaled, start, end, fill=fill)
        self._on_mask.pieslice(scaled, start, end, fill=255)

    def done(self, rng: np.random.Generator, is_round: bool = False) -> Drawing:
        if rng.random() < 0.5:
            flip = Image.Transpose.FLIP_LEFT_RIGHT
            return Drawing(self.colour.transpose(flip), self.mask.transpose(flip), is_round)
        return Drawing(self.colour, self.mask, is_round)


def _paint(rng: np.random.Generator) -> tuple[int, int, int]:
    """Any colour an object may have: bright or dull, light or dark."""
    bright = rng.integers(30, 245, 3)
    dullness = rng.random()
    grey = int(bright.mean())
    return tuple(int(c * (1 - 0.6 * dullness) + grey * 0.6 * dullness) for c in bright)


def _scaled(colour: tuple[int, int, int], factor: float) -> tuple[int, int, int]:
    return tuple(min(255, int(c * factor)) for c in colour)


def light(rng: np.random.Generator, colour: np.ndarray, is_round: bool) -> np.ndarray:
    """An object's colours float32 [h,w,3] with texture and shading, lit from the upper left."""
    height, width = colour.shape[:2]
    dy = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    dx = np.linspace(-1, 1, width, dtype=np.float32)[None]
    if is_round:
        inside = np.clip(1 - dx * dx - dy * dy, 0, 1)
        facing = np.float32(0.55) * np.sqrt(inside) - np.float32(0.3) * dx - np.float32(0.4) * dy
        shade = np.float32(0.55) + np.float32(0.75) * facing
    else:
        shade = 1 - np.float32(0.16) * dx - np.float32(0.12) * dy
    cell = max(3.0, height / 14)
    texture = np.float32(0.92) + np.float32(0.1) * noise(rng, height, width, cell, cell)
    texture = texture + np.float32(0.06) * noise(rng, height, width, 2, 2)
    return np.clip(colour * (shade * texture)[..., None], 0, 255)


def _person(rng: np.random.Generator, tall: int) -> Drawing:
    shirt, trousers = _paint(rng), _paint(rng)
    skin = _scaled((236, 188, 152), rng.uniform(0.35, 1.0))
    hair = _scaled((120, 88, 60), rng.uniform(0.2, 1.6))
    pen = _Pen(tall, 0.46, shirt)
    stride, lift = rng.uniform(0.02, 0.1), rng.uniform(-0.12, 0.14)
    pen.polygon([(0.17, 0.5), (0.23, 0.5), (0.21 - stride, 1), (0.12 - stride, 1)], trousers)
    pen.polygon([(0.23, 0.5), (0.30, 0.5), (0.33 + stride, 1), (0.25 + stride, 1)], trousers)
    pen.polygon([(0.15, 0.2), (0.31, 0.2), (0.33, 0.34), (0.30, 0.54), (0.16, 0.54)], shirt)
    pen.polygon([(0.15, 0.2), (0.2, 0.24), (0.1, 0.45 + lift), (0.05, 0.43 + lift)], shirt)
    pen.polygon([(0.31, 0.2), (0.27, 0.24), (0.36, 0.45 - lift), (0.41, 0.43 - lift)], shirt)
    pen.ellipse((0.04, 0.42 + lift, 0.11, 0.49 + lift), skin)
    pen.ellipse((0.35, 0.42 - lift, 0.42, 0.49 - lift), skin)
    pen.polygon([(0.20, 0.14), (0.26, 0.14), (0.26, 0.22), (0.20, 0.22)], skin)
    pen.ellipse((0.16, 0.0, 0.30, 0.17), hair)
    pen.ellipse((0.18, 0.04, 0.31, 0.18), skin)
    return pen.done(rng)


def _car(rng: np.random.Generator, tall: int) -> Drawing:
    body, glass = _paint(rng), _scaled((90, 120, 140), rng.uniform(0.4, 1.3))
    long = rng.uniform(2.1, 2.7)
    pen = _Pen(tall, long, body)
    front, back = rng.uniform(0.5, 0.9), rng.uniform(0.25, 0.6)
    pen.polygon(
        [
            *((0.02, 0.45), (back, 0.4), (back + 0.25, 0.02), (long - front - 0.3, 0.02)),
            *((long - front, 0.4), (long - 0.08, 0.5), (long - 0.03, 0.85), (0.02, 0.85)),
        ],
        body,
    )
    pen.polygon(
        [
            (back + 0.1, 0.4),
            (back + 0.3, 0.1),
            (long - front - 0.35, 0.1),
            (long - front - 0.1, 0.4),
        ],
        glass,
    )
    pillar = (back + long - front) / 2
    pen.polygon(
        [(pillar, 0.08), (pillar + 0.06, 0.08), (pillar + 0.06, 0.42), (pillar, 0.42)], body
    )
    pen.polygon(
        [(0.02, 0.7), (long - 0.05, 0.7), (long - 0.05, 0.76), (0.02, 0.76)], _scaled(body, 0.6)
    )
    for x in (0.45, long - 0.55):
        pen.ellipse((x - 0.22, 0.56, x + 0.22, 1.0), (28, 28, 30))
        pen.ellipse((x - 0.11, 0.67, x + 0.11, 0.89), (150, 150, 155))
    return pen.done(rng)


def _boat(rng: np.random.Generator, tall: int) -> Drawing:
    hull, sail = _paint(rng), _scaled((245, 240, 230), rng.uniform(0.7, 1.0))
    pen = _Pen(tall, 0.95, hull)
    pen.polygon([(0.02, 0.78), (0.93, 0.74), (0.8, 1.0), (0.14, 1.0)], hull)
    pen.polygon([(0.02, 0.78), (0.93, 0.74), (0.91, 0.79), (0.04, 0.83)], _scaled(hull, 1.4))
    pen.polygon([(0.44, 0.0), (0.465, 0.0), (0.465, 0.8), (0.44, 0.8)], (80, 62, 48))
    if rng.random() < 0.75:
        pen.polygon([(0.48, 0.04), (0.84, 0.68), (0.48, 0.7)], sail)
        pen.polygon([(0.42, 0.1), (0.42, 0.7), (0.14, 0.7)], _scaled(sail, 0.85))
    else:
        pen.polygon([(0.25, 0.55), (0.65, 0.53), (0.65, 0.78), (0.25, 0.78)], sail)
    return pen.done(rng)


def _bird(rng: np.random.Generator, tall: int) -> Drawing:
    feathers = _scaled((200, 200, 205), rng.uniform(0.15, 1.2))
    pen = _Pen(tall, 1.9, feathers)
    bend = rng.uniform(0.0, 0.3)
    pen.polygon([(0.0, 0.25 + bend), (0.45, bend), (0.95, 0.55), (0.85, 0.78)], feathers)
    pen.polygon(
        [(1.88, 0.2 + bend), (1.4, bend), (0.95, 0.5), (1.05, 0.78)], _scaled(feathers, 0.8)
    )
    pen.ellipse((0.6, 0.5, 1.25, 0.88), feathers)
    pen.polygon([(0.68, 0.65), (0.35, 0.8), (0.35, 0.98), (0.72, 0.8)], _scaled(feathers, 0.7))
    pen.ellipse((1.15, 0.48, 1.42, 0.76), feathers)
    pen.polygon([(1.38, 0.56), (1.62, 0.66), (1.38, 0.7)], (220, 150, 40))
    return pen.done(rng)


def _umbrella(rng: np.random.Generator, tall: int) -> Drawing:
    first, second = _paint(rng), _paint(rng)
    pen = _Pen(tall, 1.15, (70, 60, 50))
    pen.polygon([(0.55, 0.3), (0.6, 0.3), (0.6, 1.0), (0.55, 1.0)], (96, 80, 64))
    panels = int(rng.integers(4, 8))
    for panel in range(panels):
        start = 180 + 180 * panel // panels
        end = 180 + 180 * (panel + 1) // panels
        pen.pie((0.02, 0.0, 1.13, 0.9), start, end, first if panel % 2 else second)
    return pen.done(rng)


def _ball(rng: np.random.Generator, tall: int) -> Drawing:
    first, second = _paint(rng), _paint(rng)
    pen = _Pen(tall, 1.0, first)
    box = (0.0, 0.0, 0.995, 0.995)
    pen.ellipse(box, first)
    style = int(rng.integers(3))
    if style == 0:
        turn = int(rng.integers(0, 60))
        for start in range(turn, 360 + turn, 120):
            pen.pie(box, start, start + 60, second)
    elif style == 1:
        for x, y in ((0.3, 0.3), (0.7, 0.35), (0.5, 0.7)):
            pen.ellipse((x - 0.11, y - 0.11, x + 0.11, y + 0.11), second)
    return pen.done(rng, is_round=True)


def _bottle(rng: np.random.Generator, tall: int) -> Drawing:
    glass, label = _paint(rng), _scaled((235, 230, 215), rng.uniform(0.6, 1.0))
    pen = _Pen(tall, 0.34, glass)
    neck = rng.uniform(0.18, 0.34)
    pen.polygon(
        [
            *((0.13, 0.05), (0.21, 0.05), (0.21, neck), (0.33, neck + 0.16), (0.33, 1.0)),
            *((0.01, 1.0), (0.01, neck + 0.16), (0.13, neck)),
        ],
        glass,
    )
    pen.polygon([(0.12, 0.0), (0.22, 0.0), (0.22, 0.07), (0.12, 0.07)], _paint(rng))
    pen.polygon([(0.01, 0.58), (0.33, 0.58), (0.33, 0.84), (0.01, 0.84)], label)
    pen.polygon(
        [(0.06, neck + 0.2), (0.09, neck + 0.2), (0.09, 0.96), (0.06, 0.96)], _scaled(glass, 1.7)
    )
    return pen.done(rng)


def _plant(rng: np.random.Generator, tall: int) -> Drawing:
    pot = _scaled((176, 98, 62), rng.uniform(0.5, 1.3))
    green = _scaled((70, 130, 52), rng.uniform(0.5, 1.3))
    pen = _Pen(tall, 0.8, green)
    pen.polygon([(0.22, 0.66), (0.58, 0.66), (0.52, 1.0), (0.28, 1.0)], pot)
    pen.polygon([(0.2, 0.62), (0.6, 0.62), (0.6, 0.7), (0.2, 0.7)], _scaled(pot, 1.2))
    for _ in range(int(rng.integers(7, 12))):
        tip_x, tip_y = rng.uniform(0.0, 0.8), rng.uniform(0.0, 0.45)
        leaf = _scaled(green, rng.uniform(0.7, 1.35))
        middle_x, middle_y = (tip_x + 0.4) / 2, (tip_y + 0.64) / 2
        pen.polygon(
            [
                *((0.37, 0.64), (middle_x - 0.07, middle_y - 0.02), (tip_x, tip_y)),
                *((middle_x + 0.07, middle_y + 0.02), (0.43, 0.64)),
            ],
            leaf,
        )
    return pen.done(rng)


def draw_rock(rng: np.random.Generator, tall: int) -> Drawing:
    """A boulder, an object of no category, `tall` pixels high."""
    grey = _scaled((130, 126, 120), rng.uniform(0.5, 1.2))
    pen = _Pen(tall, 1.4, grey)
    top = [(0.1 + 0.2 * i, rng.uniform(0.02, 0.3)) for i in range(1, 6)]
    pen.polygon([(0.02, 1.0), (0.05, 0.55), *top, (1.35, 0.6), (1.38, 1.0)], grey)
    pen.polygon([(0.3, 1.0), (0.5, 0.5), (0.9, 0.6), (1.0, 1.0)], _scaled(grey, 0.75))
    return pen.done(rng)


DRAWERS: dict[str, Callable[[np.random.Generator, int], Drawing]] = {
    "person": _person,
    "car": _car,
    "boat": _boat,
    "bird": _bird,
    "umbrella": _umbrella,
    "sports ball": _ball,
    "bottle": _bottle,
    "potted plant": _plant,
}
"""Drawer of each kind of thing, by COCO's name."""

HEIGHTS: dict[str, float] = {
    "person": 1.0,
    "car": 0.75,
    "boat": 1.3,
    "bird": 0.3,
    "umbrella": 1.1,
    "sports ball": 0.35,
    "bottle": 0.55,
    "potted plant": 0.6,
}
"""Height of each kind of thing, relative to a person's at the same distance."""
