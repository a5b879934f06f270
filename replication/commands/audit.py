"""`parity audit`: proves or refutes, layer by layer, that both models compute the same function."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from parity.errors import InputError
from parity.steps import ENDLESS, Budget, Steps
from replication.commands import options
from replication.console.first_verdict import first_verdict
from replication.forward.executions import COMPILED, EXECUTIONS
from replication.process.threads import set_threads

if TYPE_CHECKING:
    from parity.auditing.result import AuditResult
    from replication.forward.run import Request

EVERY = ",".join(EXECUTIONS)
DEFAULT = "coco_r50"
"""The configuration of weights that fit any."""


def parse_executions(text: str) -> tuple[str, ...]:
    """The executions in a comma-separated list; raises InputError for an unknown or empty one."""
    from replication.forward.run import ASKED_FOR

    names = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    known = (*EXECUTIONS, *ASKED_FOR)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise InputError(
            f"--execution has {unknown[0]!r}",
            f"expected a comma-separated list of {', '.join(known)}",
            "for example --execution graph,xla",
        )
    return names


def summary(result: "AuditResult") -> str:
    """The result in a few lines that a person reads on a terminal."""
    float64 = result.float64.nearest_to_limit
    lines = [
        f"verdict: {result.verdict} ({result.taps} tensors compared)",
        f"float64: gap {float64.value:.2g} ({float64.metric}) at {float64.tap}, "
        f"limit {float64.limit:.2g}, the nearest to its limit",
    ]
    lines += [
        f"{_called(name)}: worst error {one.worst_ratio:.2f}x the reference's own "
        f"at {one.worst_tap}, limit {one.limit:g}x"
        for name, one in result.float32.items()
    ]
    lines += [one.failure for one in result.claims if one.fails or one.drowned]
    if result.first_divergence is not None:
        lines.append(f"first divergence: {result.first_divergence}")
    lines += [one.evidence for one in result.localisations]
    if result.witness:
        loss = result.witness["loss"]
        lines.append(
            f"training loss: {loss['reference']['total']:.4f} with the reference's auxiliary "
            f"outputs, {loss['port']['total']:.4f} with the port's; last layer alone differs by "
            f"{loss['final_difference']:.1g}"
        )
    return "\n".join(lines)


def _called(execution: str) -> str:
    """An execution with its precision, such as `float32 graph`."""
    from parity.auditing.result import precision_of

    return " ".join(dict.fromkeys([precision_of(execution), execution]))


def _audit_all(
    excluded: list[str],
    weights: str,
    size: str | None,
    threads: int | None,
    out: Path | None,
    as_json: bool,
) -> NoReturn:
    """Runs `parity audit --all` and ends the program; `excluded` options were given beside it."""
    from maskformer.data.images import parse_size
    from replication.forward import every_architecture as audit_all

    options.alone(
        "--all",
        excluded,
        "it audits every architecture of the zoo in float64, on one synthetic image",
        "give --weights seeded:N, --size, --threads, --out or --json only",
    )
    if not weights.startswith("seeded:"):
        raise InputError(
            f"--all does not go with --weights {weights}",
            "a checkpoint fits one architecture",
            "give seeded:N",
        )
    size = size or audit_all.SIZE
    parse_size(size)
    result = audit_all.audit_all(weights, size, threads, options.command_line())
    options.keep(result, out, "audit_all.json")
    equal = result.verdict == "equal"
    options.end(result, as_json, lambda: audit_all.table(result), equal)


def _steps_of(request: "Request") -> int:
    """How many steps an audit announces that finds no fault."""
    from parity.judge import BFLOAT16

    executions, whole = request.executions, request.only is None
    half = BFLOAT16 in executions
    single = any(one != BFLOAT16 for one in executions)
    total = 5 + (request.port_weights is not None) + single + half + len(executions)
    if whole:  # inference; extreme inputs; modules alone
        total += 1 + request.extreme + (request.isolate or request.reference == "hf") + half
    if request.train is not None:
        from replication.training.step import STEPS

        total += STEPS + any(one in COMPILED for one in executions) + 2 * half
    return total


def _say_first(result: "AuditResult") -> None:
    """Says what is known beside the progress of an audit that goes on."""
    options.say(first_verdict(result))


def _audit_pair(
    source: str,
    excluded: list[str],
    asked: tuple[dict[str, Any], dict[str, bool]],
    train: bool,
    threads: int | None,
    out: Path | None,
    as_json: bool,
) -> NoReturn:
    """Runs `parity audit --pair` and ends the program; `excluded` options were given beside it.

    `asked` are the audit's options, and what is switched on in the pair. With `train` what is
    called `training` beside the pair says how both are trained.
    """
    from parity.auditing.options import NOT_VERIFIED, Options
    from parity.auditing.unfinished import Unfinished
    from parity.audits import audit_with
    from replication.sides.pair_source import load_pair, load_training

    options.alone(
        "--pair",
        excluded,
        "models, weights and inputs are those of the pair",
        "give --execution, --isolate, --only, --train, --search, --hard-inputs, "
        "--extreme-inputs, --undeclared, --threads, --out or --json only",
    )
    set_threads(threads)
    pair, training = load_pair(source), load_training(source) if train else None
    how, more = asked
    pair = replace(pair, **{name: True for name, wanted in more.items() if wanted})
    left = NOT_VERIFIED[1:] if train else NOT_VERIFIED
    so_far = Unfinished(out, options.command_line())
    with_options = Options(
        **how,
        training=training,
        command=options.command_line(),
        not_verified=left,
        so_far=so_far,
        first=None if as_json else _say_first,
    )
    result = replace(audit_with(pair, with_options, Steps(quiet=as_json)), title=source)
    options.keep(result, out, "audit.json")
    so_far.end()
    causes = [f"{one.path}: {one.cause}" for one in result.localisations if one.cause]
    equal = result.verdict == "equal"
    options.end(result, as_json, lambda: "\n".join([summary(result), *causes]), equal)


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
        config: options.Config = None,
        config_file: options.ConfigFile = None,
        classes: options.Classes = None,
        settings: options.Settings = None,
        weights: options.Weights = "seeded:0",
        port_weights: options.PortWeights = None,
        images: options.Images = None,
        size: options.Size = None,
        batch: options.Batch = 1,
        short_side: options.ShortSide = None,
        execution: options.Execution = EVERY,
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
        pair: options.OtherPair = None,
        search: Annotated[
            str | None,
            typer.Option(
                help="How long causes are searched for: 60s in all, or 60s,5s with 5 s at a place.",
                metavar="TIME",
            ),
        ] = None,
        hard_inputs: Annotated[
            bool,
            typer.Option(
                "--hard-inputs",
                help="With --pair, make inputs that hide fewer mistakes: sides, batch, padding.",
            ),
        ] = False,
        extreme_inputs: Annotated[
            bool,
            typer.Option(
                "--extreme-inputs",
                help="Judge modules alone on logits of 100, far means, numbers next to overflow.",
            ),
        ] = False,
        undeclared: Annotated[
            bool,
            typer.Option(
                "--undeclared",
                help="With --pair, list weights without a counterpart instead of refusing them.",
            ),
        ] = False,
        reference_trace: Annotated[
            Path | None,
            typer.Option(help="A reference that `parity capture` kept; it does not run."),
        ] = None,
        port_trace: Annotated[
            Path | None, typer.Option(help="The same of a port; with both, no framework is needed.")
        ] = None,
        threads: options.Threads = None,
        out: options.Out = None,
        as_json: options.AsJson = False,
    ) -> None:
        """Compare two models, every layer, on real inputs: those of --pair, or of a configuration.

        Without --config the one that fits --weights is taken. The synthetic image is 128x160, with
        --all 64x96.

        Exit status: 0 equal, 1 different or not decided, 2 wrong usage or input.
        """
        budget = ENDLESS if search is None else Budget.of_text(search)
        of_a_zoo = {
            "--config": config,
            "--config-file": config_file,
            "--classes": classes,
            "--set": settings,
            "--port-weights": port_weights,
            "--images": images or more_images,
            "--batch": batch != 1,
            "--short-side": short_side,
            "--reference": reference != "builtin",
        }
        if reference_trace is not None or port_trace is not None:
            from replication.commands.capture import Described, audit_captured

            beside = {"--all": every, "--only": only, "--isolate": isolate}
            beside |= {"--search": search, "--hard-inputs": hard_inputs}
            beside |= {"--undeclared": undeclared, "--port-weights": port_weights}
            beside |= {"--reference": reference != "builtin", "--set": settings}
            beside |= {"--classes": classes, "--extreme-inputs": extreme_inputs}
            audit_captured(
                {"reference": reference_trace, "port": port_trace},
                Described(
                    config,
                    config_file,
                    pair,
                    weights,
                    images or more_images,
                    size,
                    batch,
                    short_side,
                    train,
                ),
                [name for name, value in beside.items() if value],
                (execution, threads),
                (out, as_json, summary),
            )
        if pair is not None:
            given = of_a_zoo | {
                "--weights": weights != "seeded:0",
                "--size": size,
                "--all": every,
            }
            excluded = [name for name, value in given.items() if value]
            names = [part.strip() for part in execution.split(",") if part.strip()]
            how = {
                "executions": None if execution == EVERY else names,
                "isolate": isolate,
                "only": only,
                "search": budget,
            }
            more = {
                "hard_inputs": hard_inputs,
                "extreme_inputs": extreme_inputs,
                "undeclared": undeclared,
            }
            _audit_pair(pair, excluded, (how, more), train, threads, out, as_json)
        if undeclared or hard_inputs:
            raise InputError(
                f"{'--undeclared' if undeclared else '--hard-inputs'} goes with --pair only",
                "weights of a configuration are declared whole, and inputs are --images or --size",
                "leave it out",
            )
        if every:
            given = of_a_zoo | {
                "--train": train,
                "--execution": execution != EVERY,
                "--only": only,
                "--isolate": isolate,
                "--search": search,
                "--extreme-inputs": extreme_inputs,
            }
            excluded = [name for name, value in given.items() if value]
            _audit_all(excluded, weights, size, threads, out, as_json)
        from maskformer.model import zoo
        from parity.auditing.unfinished import Unfinished
        from replication.forward.run import Request, audit
        from replication.sides.fitting import entry_that_fits
        from replication.sides.torch_side import REFERENCES

        options.one_of("--reference", reference, REFERENCES)
        told = of_a_zoo | {"--size": size}
        options.check_images([name for name, value in told.items() if value])
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
            chosen = options.resolved(config, config_file, options.overrides(settings))
        chosen = options.with_classes(chosen, classes, None)
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
            search=budget,
            train=chosen.solver if train else None,
            extreme=extreme_inputs,
            command=options.command_line(),
            so_far=Unfinished(out, options.command_line()),
            first=_say_first,
        )
        set_threads(threads)
        result = audit(request, Steps(total=_steps_of(request)))
        options.keep(result, out, "audit.json")
        request.so_far.end()
        options.end(result, as_json, lambda: summary(result), result.verdict == "equal")
