"""First screens of five reports as pictures: `python -m parity_tests.reports.mixer.screens DIR`.

For each recording DIR has CASE-WIDTH-SCHEME.png, of a large screen and a phone, light and dark. It
needs Chromium. How the recordings were made is said beside them, but of planted.json: it has the
claims of `replication.training.step.step_claims` on `tiny` at 64x64, seeded:0, with the constant
FOCAL_ALPHA of `tf_impl.criterion` 0.75.
"""

import io
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from parity_tests.reports import browser
from reports.loading import load
from reports.render import write_report

MIXER = Path(__file__).parent
CASES = {
    "equal": "equal",
    "three-faults": "faults",
    "training-fault": "planted",
    "keras3": "keras3",
    "undecided": "undecided",
}
"""The recording of each case."""

SCREENS = {1440: 900, 390: 844}
SCHEMES = ("light", "dark")
COLOURS = 64  # text on one ground, and few colours that mean something


def screens(address: str) -> Iterator[tuple[str, bytes]]:
    """The first screen of a page in every size and scheme, a PNG each, by its name."""
    with browser.launched() as chromium:
        for width, height in SCREENS.items():
            for scheme in SCHEMES:
                size = {"width": width, "height": height}
                page = chromium.new_page(viewport=size, color_scheme=scheme)
                page.goto(address)
                yield f"{width}-{scheme}", page.screenshot()
                page.close()


def main() -> None:
    """Makes the pictures of all cases."""
    out = Path(sys.argv[1]).absolute()
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for name, recording in CASES.items():
            page = write_report(load([MIXER / f"{recording}.json"]), Path(folder, name))
            for screen, png in screens(page.as_uri()):
                path = out / f"{name}-{screen}.png"
                picture = Image.open(io.BytesIO(png)).convert("RGB")
                method = Image.Quantize.MAXCOVERAGE  # rare colours are kept, too
                few = picture.quantize(COLOURS, method, dither=Image.Dither.NONE)
                few.save(path, optimize=True)
                print(f"{path.name}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
