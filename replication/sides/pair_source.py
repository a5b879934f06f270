"""Objects that a person names on the command line: `FILE.py:name` or `module:name`."""

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from parity import Pair, Training
from parity.errors import InputError

EXAMPLE = "for example port/compare.py:pair or port.compare:pair"


def load_pair(source: str) -> Pair:
    """The pair that `source` names, or that the function returns which it names.

    Raises InputError where there is none.
    """
    found = load(source)
    if not isinstance(found, Pair) and callable(found) and not isinstance(found, type):
        found = found()
    if not isinstance(found, Pair):
        raise InputError(
            f"{source} is no pair",
            f"it is a {type(found).__name__}",
            "name a `parity.Pair`, or a function that returns one",
        )
    return found


def load_training(source: str) -> Training:
    """What is called `training` beside the pair that `source` names; a function is called.

    Raises InputError where there is none.
    """
    beside = f"{source.rpartition(':')[0]}:training"
    found = load(beside)
    found = found if isinstance(found, Training) else found()
    if not isinstance(found, Training):
        raise InputError(
            f"{beside} is no training",
            f"it is a {type(found).__name__}",
            "name a `parity.Training`, or a function that returns one, `training`",
        )
    return found


def load(source: str) -> Any:
    """The object that `source` names; modules are looked for in the working folder as well.

    Raises InputError for what is no such name, and a file, module or name that is not there.
    """
    place, _, name = source.rpartition(":")
    if not place or not name:
        raise InputError(
            f"{source!r} names nothing", "expected FILE.py:name or module:name", EXAMPLE
        )
    module = _file(Path(place)) if place.endswith(".py") else _module(place)
    if not hasattr(module, name):
        known = [one for one in vars(module) if not one.startswith("_")]
        raise InputError(
            f"{place} has no `{name}`", f"it has {', '.join(known) or 'nothing'}", EXAMPLE
        )
    return getattr(module, name)


def _file(path: Path) -> ModuleType:
    if not path.is_file():
        raise InputError(f"{path} is no file", "there is none of that name", EXAMPLE)
    _find_beside(path.parent)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # so that its classes can be found by their module's name
    spec.loader.exec_module(module)
    return module


def _module(name: str) -> ModuleType:
    _find_beside(Path())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        raise InputError(
            f"there is no module {name}",
            f"{error.name} was looked for in the working folder and in what is installed",
            EXAMPLE,
        ) from None


def _find_beside(folder: Path) -> None:
    place = str(folder.resolve())
    if place not in sys.path:
        sys.path.insert(0, place)
