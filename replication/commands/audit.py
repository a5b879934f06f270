"""`parity audit`: proves or refutes, layer by layer, that both models compute the same function."""

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from parity.errors import InputError
from parity.records import write_json
from parity.steps import Steps
from replication.forward.run import EXECUTIONS, Request, audit
from replication.process.threads import set_threads

DEFAULT = "coco_r50"
"""The configuration of weights that fit any."""


def parse_executions(text: str) -> tuple[str, ...]:
    """The executions in a comma-separated list; raises InputError for an unknown or empty one."""
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    unknown = [name for name in names if name not in EXECUTIONS]
    if unknown:
        raise InputError(
            f"--execution has {unknown[0]!r}",
            f"expected a comma-separated list of {', '.join(EXECUTIONS)}",
            "for example --execution graph,xla",
        )
    return names


def summary(result: dict[str, Any]) -> str:
    """The result in a few lines that a person reads on a terminal."""
    from parity.claims import failure

    float64 = result["float64"]
    lines = [
        f"verdict: {result['verdict']} ({result['taps']} tensors compared)",
        f"float64: worst gap {float64['worst_gap']:.2g} at {float64['worst_tap']}, "
        f"limit {float64['limit']:.2g}",
    ]
    lines += [
        f"float32 {name}: worst error {float(one['worst_ratio']):.2f}x the reference's own "
        f"at {one['worst_tap']}, limit {one['limit']:g}x"
        for name, one in result["float32"].items()
    ]
    lines += [failure(one) for one in result["claims"] if one["verdict"] == "fails"]
    if result["first_divergence"] is not None:
        lines.append(f"first divergence: {result['first_divergence']}")
    lines += [one["evidence"] for one in result["localisations"]]
    if "witness" in result:
        loss = result["witness"]["loss"]
        lines.append(
            f"training loss: {loss['reference']['total']:.4f} with the reference's auxiliary "
            f"outputs, {loss['port']['total']:.4f} with the port's; last layer alone differs by "
            f"{loss['final_difference']:.1g}"
        )
    return "\n".join(lines)


def _audit_all(
    excluded: list[str],
    weights: str,
    size: str | None,
    threads: int | None,
    command: str,
    as_json: bool,
) -> NoReturn:
    """Runs `parity audit --all` and ends the program; `excluded` options were given beside it."""
    from maskformer.data.images import parse_size
    from replication.forward import every_architecture as audit_all

    if excluded:
        raise InputError(
            f"--all does not go with {', '.join(excluded)}",
            "it audits every architecture of the zoo in float64, on one synthetic image",
            "give --weights seeded:N, --size, --threads or --json only",
        )
    if not weights.startswith("seeded:"):
        raise InputError(
            f"--all does not go with --weights {weights}",
            "a checkpoint fits one architecture",
            "give seeded:N",
        )
    size = size or audit_all.SIZE
    parse_size(size)
    result = audit_all.audit_all(weights, size, threads, command)
    print(json.dumps(result, allow_nan=False) if as_json else audit_all.table(result))
    raise typer.Exit(0 if result["verdict"] == "equal" else 1)


def register(app: typer.Typer) -> None:
    """Adds `parity audit`."""

    @app.command(
        name="audit",
        epilog="Example: parity audit --config coco_r50 --weights seeded:7 --size 112x144",
    )
    def command(
        more_images: Annotated[
            list[Path] | None, typer.Argument(metavar="[IMAGE]...", hidden=True)
        ] = None,
        config: Annotated[
            str | None,
            typer.Option(help="Name of a zoo configuration; else the one that fits --weights."),
        ] = None,
        config_file: Annotated[
            Path | None, typer.Option(help="The original's YAML instead.", metavar="YAML")
        ] = None,
        weights: Annotated[str, typer.Option(help="seeded:N, or a checkpoint file.")] = "seeded:0",
        port_weights: Annotated[
            str | None,
            typer.Option(
                help="The port's own checkpoint, such as a converted one; else it has --weights.",
                metavar="CHECKPOINT",
            ),
        ] = None,
        images: Annotated[
            list[Path] | None,
            typer.Option(help="Image files, several after one another.", metavar="FILE..."),
        ] = None,
        size: Annotated[
            str | None,
            typer.Option(
                help="HxW of synthetic images, several by commas; 128x160, or 64x96 with --all."
            ),
        ] = None,
        batch: Annotated[int, typer.Option(help="How many synthetic images of each size.")] = 1,
        short_side: Annotated[
            int | None, typer.Option(help="Resize --images to this short side, in pixels.")
        ] = None,
        execution: Annotated[
            str, typer.Option(help="How TensorFlow runs in float32: eager, graph, xla.")
        ] = ",".join(EXECUTIONS),
        reference: Annotated[
            str, typer.Option(help="builtin; original or hf where installed.")
        ] = "builtin",
        only: Annotated[
            str | None, typer.Option(help="Compare one module and those below it.", metavar="PATH")
        ] = None,
        isolate: Annotated[
            bool,
            typer.Option("--isolate", help="Run every module alone on the reference's inputs."),
        ] = False,
        train: Annotated[
            bool,
            typer.Option(
                "--train", help="Also compare losses, matchings, gradients and one update."
            ),
        ] = False,
        every: Annotated[
            bool,
            typer.Option(
                "--all", help="Audit each architecture of the zoo in float64, one by one."
            ),
        ] = False,
        threads: Annotated[int | None, typer.Option(help="Threads of both frameworks.")] = None,
        out: Annotated[
            Path | None, typer.Option(help="Folder for audit.json and the report.", metavar="DIR")
        ] = None,
        as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    ) -> None:
        """Compare the TensorFlow model with the PyTorch reference, every layer, on real inputs.

        Exit status: 0 equal, 1 different, 2 wrong usage or input.
        """
        words = shlex.join(["parity", *sys.argv[1:]])
        if every:
            given = {
                "--config": config,
                "--config-file": config_file,
                "--port-weights": port_weights,
                "--images": images or more_images,
                "--batch": batch != 1,
                "--short-side": short_side,
                "--execution": execution != ",".join(EXECUTIONS),
                "--reference": reference != "builtin",
                "--only": only,
                "--isolate": isolate,
                "--train": train,
                "--out": out,
            }
            _audit_all(
                [name for name, value in given.items() if value],
                weights,
                size,
                threads,
                words,
                as_json,
            )
        from maskformer.model import zoo
        from maskformer.model.detectron2_config import resolve
        from parity.records import strict
        from replication.commands.fitting import entry_that_fits
        from replication.sides.torch_side import REFERENCES

        if reference not in REFERENCES:
            raise InputError(
                f"--reference is {reference!r}", f"expected one of {', '.join(REFERENCES)}"
            )
        if train and (reference != "builtin" or only is not None):
            raise InputError(
                "--train cannot be combined with --only or another --reference",
                "gradients run through the whole built-in reference",
                "leave the other options out",
            )
        if isolate and only is not None:
            raise InputError(
                "--isolate does not go with --only",
                "a module runs alone on the tensors around it, which --only leaves out",
                "leave --only out; the table of modules in the report can be filtered",
            )
        if config is None and config_file is None:
            seeded = weights.startswith("seeded:")
            chosen = zoo.get(DEFAULT) if seeded else entry_that_fits(Path(weights))
        else:
            chosen = resolve(config, config_file)
        request = Request(
            config=chosen.model,
            weights=weights,
            port_weights=port_weights,
            images=(*(images or ()), *(more_images or ())),
            size=size or "128x160",
            batch=batch,
            short_side=short_side,
            executions=parse_executions(execution),
            reference=reference,
            only=only,
            isolate=isolate,
            train=chosen.solver if train else None,
            command=words,
        )
        set_threads(threads)
        total = 7 + len(request.executions) + (request.isolate or reference == "hf")
        total += port_weights is not None
        if train:
            from replication.training.step import STEPS

            total += STEPS
        result = audit(request, Steps(total=total))
        if out is not None:
            from reports.render import write_report

            write_json(result, out)
            report = write_report([result], out)
            print(f"report: {report}", file=sys.stderr)
        print(json.dumps(strict(result), allow_nan=False) if as_json else summary(result))
        raise typer.Exit(0 if result["verdict"] == "equal" else 1)
