"""The first screens of five reports, as pictures: `python -m parity_tests.reports.screens DIR`.

For each case DIR has CASE-WIDTH-SCHEME.png, of a large screen and a phone, light and dark. The
recordings of a Mixer are taken as they are; what else is shown is measured first. It needs Chromium
and takes some minutes.
"""

import io
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from PIL import Image

from parity_tests.reports import browser
from reports.loading import load
from reports.render import write_report

MIXER = Path(__file__).parent / "mixer"
SCREENS = {1440: 900, 390: 844}
SCHEMES = ("light", "dark")
COLOURS = 64  # text on one ground, and few colours that mean something
PLANTED = """
from replication import cli
from replication.faults.catalogue.planting import constant
from tf_impl import criterion
with constant(criterion, "FOCAL_ALPHA", 0.75)(None):
    cli.main()
"""


def recorded(name: str) -> Callable[[Path], Path]:
    """A recording that lies beside the Mixer."""
    return lambda folder: MIXER / f"{name}.json"


def paired(name: str) -> Callable[[Path], Path]:
    """An audit of a pair that lies beside the Mixer."""
    words = ("audit", "--pair", f"{name}.py:pair", "--execution", "eager", "--isolate")
    return lambda folder: measured(words, folder, "from replication.cli import main; main()")


def trained(folder: Path) -> Path:
    """An audit of a MaskFormer's training step whose loss has another constant."""
    words = ("audit", "--config", "tiny", "--train", "--size", "64x64", "--execution", "eager")
    return measured(words, folder, PLANTED)


def measured(words: tuple[str, ...], folder: Path, program: str) -> Path:
    """What a command said in JSON; a verdict of any kind is one."""
    command = [sys.executable, "-c", program, *words, "--json"]
    done = subprocess.run(command, cwd=MIXER, capture_output=True, text=True, check=False)
    if not done.stdout:
        raise SystemExit(done.stderr)
    path = folder.with_suffix(".json")
    path.write_text(done.stdout, encoding="utf-8")
    return path


CASES = {
    "equal": recorded("equal"),
    "three-faults": recorded("faults"),
    "training-fault": trained,
    "keras3": paired("keras3"),
    "undecided": paired("undecided"),
}


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
    """Makes the pictures of the cases that are named, or of all."""
    folder, *names = sys.argv[1:]
    out = Path(folder).absolute()
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        for name in names or CASES:
            found = CASES[name](Path(place, name))
            page = write_report(load([found]), Path(place, f"{name}-report"))
            for screen, png in screens(page.as_uri()):
                path = out / f"{name}-{screen}.png"
                picture = Image.open(io.BytesIO(png)).convert("RGB")
                method = Image.Quantize.MAXCOVERAGE  # rare colours are kept, too
                few = picture.quantize(COLOURS, method, dither=Image.Dither.NONE)
                few.save(path, optimize=True)
                print(f"{path.name}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
