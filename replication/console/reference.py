"""The command line described from its code: what each help ends with, and `docs/commands.md`.

python -m replication.console.reference > docs/commands.md
"""

import inspect
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import typer

DONE = "Exit status: 0 done, 2 wrong usage or input."
OURS = "wrong usage or input, 3 the program itself failed, 130 interrupted."
_USAGE = re.compile(r"wrong\s+usage(\s+or\s+input)?\.")
HEAD = """# Commands and options

Made from the code by `make commands`; a test compares both.

An option of the first table means the same in every verb that has it. `--json` prints one \
object, with a `schema`. The exit status is 0 where what is claimed holds, 1 where it does not, \
2 for wrong usage or input, 3 where the program itself failed, and 130 where it was interrupted.
"""


def complete_help(app: typer.Typer) -> None:
    """Lets every help end with all exit statuses that there are."""
    for info in app.registered_commands:
        text = info.help or inspect.getdoc(info.callback) or ""
        if "Exit status" not in text:
            text = f"{text}\n\n{DONE}"
        info.help = _USAGE.sub(OURS, text)
    for group in app.registered_groups:
        complete_help(group.typer_instance)


def commands(group: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    """Every command below a group of Click's, by its words."""
    for name, one in group.commands.items():
        if hasattr(one, "commands"):
            yield from commands(one, f"{before}{name} ")
        else:
            yield f"{before}{name}", one


def meanings(app: typer.Typer) -> dict[str, dict[str, list[str]]]:
    """By option, what it means, and in which verbs it means that."""
    found: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for verb, command in commands(typer.main.get_group(app)):
        for parameter in command.params:
            for name in parameter.opts:
                if name.startswith("--") and not parameter.hidden:
                    found[name][parameter.help or ""].append(verb)
    return {name: dict(told) for name, told in found.items()}


def example(command: Any) -> str:
    """The example in a command's help; empty where it has none."""
    text = " ".join(f"{command.help or ''} {command.epilog or ''}".split())
    match = re.search(r"Example: (parity .*?)(?= Exit status|$)", text)
    return match[1] if match else ""


def markdown(app: typer.Typer) -> str:
    """The table of verbs and options."""
    found = meanings(app)
    shared = {
        name: told for name, told in found.items() if sum(map(len, told.values())) > 1 == len(told)
    }
    lines = [HEAD, "| option | meaning | verbs |", "| --- | --- | --- |"]
    for name, told in sorted(shared.items()):
        ((text, verbs),) = told.items()
        lines.append(f"| `{name}` | {_cell(text)} | {', '.join(sorted(verbs))} |")
    for verb, command in sorted(commands(typer.main.get_group(app))):
        first = " ".join((command.help or "").partition("\n\n")[0].split())
        lines += ["", f"## parity {verb}", "", first, "", f"`{example(command)}`"]
        own = [one for one in command.params if not one.hidden and one.opts[0] not in shared]
        if own:
            lines += ["", "| own | meaning |", "| --- | --- |"]
        for one in own:
            is_option = one.opts[0].startswith("--")
            name = one.opts[0] if is_option else (one.metavar or one.name).upper()
            lines.append(f"| `{name}` | {_cell(one.help or '')} |")
        names = sorted(one.opts[0] for one in command.params if one.opts[0] in shared)
        if names:
            lines += ["", f"Shared: {', '.join(f'`{name}`' for name in names)}"]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
