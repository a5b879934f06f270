"""Compare a reference with its port, name by name, layer by layer: the same function or not.

`Pair` says which two models, `audit` compares them, with a `Training` beside it a training step,
too, and `save` keeps the result for `parity report`. What belongs together is found by itself;
`match` shows how. `Names`, `Weights`, `Layout` and `Joint` declare what cannot be seen.
`capture` runs one side where the other's framework is not, and keeps it to be judged elsewhere.
`compare_functions` and `compare_examples` are for what is no model: a loss, a matcher, a pipeline.
Importing this package needs NumPy alone and loads no framework; `audit` loads those of the pair.
"""

from importlib import import_module, metadata
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from parity.audits import Pair, Training, audit, save
    from parity.captures.capturing import capture
    from parity.comparing.examples import compare_examples
    from parity.comparing.functions import compare_functions
    from parity.matching.search import match
    from parity.names import Names
    from parity.weights import Joint, Layout, Weights

__all__ = [
    "Joint",
    "Layout",
    "Names",
    "Pair",
    "Training",
    "Weights",
    "__version__",
    "audit",
    "capture",
    "compare_examples",
    "compare_functions",
    "match",
    "save",
]

_MODULES = {
    **dict.fromkeys(("Pair", "Training", "audit", "save"), "parity.audits"),
    "capture": "parity.captures.capturing",
    "compare_examples": "parity.comparing.examples",
    "compare_functions": "parity.comparing.functions",
    "match": "parity.matching.search",
    "Names": "parity.names",
    **dict.fromkeys(("Joint", "Layout", "Weights"), "parity.weights"),
}
"""Where each name is; a module is imported when its name, or the module, is first used."""

try:
    __version__ = metadata.version("maskformer-replication")
except metadata.PackageNotFoundError:  # a source tree that is not installed
    __version__ = "0+source"


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        found = getattr(import_module(_MODULES[name]), name)
    elif not name.startswith("_") and find_spec(f"{__name__}.{name}") is not None:
        found = import_module(f"{__name__}.{name}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
