"""How much of each port is paired with no map: `python -m examples.ports [NAME...]`."""

import os
import sys

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

from examples.ports.study import PORTS
from parity import match


def main() -> None:
    """Prints a line for each port, and one for all."""
    layers = paired = made = compared = 0
    for name in sys.argv[1:] or PORTS:
        found = match(PORTS[name]())
        one = found.coverage
        asked = f"; asks {len(found.questions)}" if found.questions else ""
        print(f"{name}: {one}{asked}", flush=True)
        for what in (*one.alone, *one.unseen):
            print(f"    not {what}", flush=True)
        layers, paired = layers + len(one.layers), paired + len(one.layers) - len(one.alone)
        made += len(one.activations)
        compared += len(one.activations) - len(one.unseen)
    print(
        f"all: {paired} of {layers} layers ({paired / layers:.1%}), "
        f"{compared} of {made} tensors ({compared / made:.1%})"
    )


if __name__ == "__main__":
    main()
