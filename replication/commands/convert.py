"""`parity convert`: a checkpoint into another format, with a receipt that can be verified."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from parity.errors import InputError
from parity.records import parts
from replication.commands import options
from replication.sides.fitting import entry_that_fits

if TYPE_CHECKING:
    from maskformer.model.config import ModelConfig
    from weight_conversion.unwrapping import Choice


def register(app: typer.Typer) -> None:
    """Adds `parity convert` to `app`."""
    app.command("convert")(convert)


def convert(
    source: Annotated[Path | None, typer.Argument(help="Checkpoint of any known kind.")] = None,
    target: Annotated[Path | None, typer.Argument(help="File, or folder for tf and hf.")] = None,
    overrides: Annotated[list[str] | None, typer.Argument(help="KEY VALUE ... of a YAML.")] = None,
    to: Annotated[str | None, typer.Option(help="tf, torch, hf or safetensors.")] = None,
    config: options.Config = None,
    config_file: options.ConfigFile = None,
    classes: options.Classes = None,
    dtype: options.Dtype = None,
    ema: options.Ema = False,
    key: options.Key = None,
    prefix: options.Prefix = None,
    verify: Annotated[Path | None, typer.Option(help="Verify this receipt instead.")] = None,
    out: options.Out = None,
    as_json: options.AsJson = False,
) -> None:
    """Convert a checkpoint; every tensor is accounted for in a receipt beside the result.

    Without --config the zoo config that fits is taken, or what a Hugging Face folder says.

    Example: parity convert model_final_6f60dc.pkl coco_r50_tf --to tf --config coco_r50

    Example: parity convert --verify coco_r50_tf/receipt.json
    """
    if verify is not None:
        _verify(verify, out, as_json)
    if source is None or target is None or to is None:
        raise InputError(
            "the conversion is incomplete",
            "expected: parity convert SRC DST --to tf|torch|hf|safetensors",
            "or: parity convert --verify RECEIPT",
        )
    from replication.console.progress import bytes_shown
    from weight_conversion.convert import convert as run
    from weight_conversion.receipt import receipt_path
    from weight_conversion.unwrapping import Choice

    choice = Choice(ema, key, prefix)
    wanted = (config, config_file, overrides or [])
    chosen = _config(source, wanted, choice, classes)
    with bytes_shown("converting", not as_json) as progress:
        receipt = run(
            source,
            target,
            to,
            chosen,
            dtype=dtype,
            choice=choice,
            progress=progress,
            say=options.say,
        )
    beside = receipt_path(target, to)
    result = {"target": str(target), "receipt": str(beside), **parts(receipt)}
    options.keep(result, out, "conversion.json", report=False)
    lines = [
        f"{source} ({receipt.source.kind}) -> {target} ({to}), {chosen.name}",
        f"{len(receipt.tensors)} tensors, {receipt.size:,} bytes",
        *receipt.source.notes,
        *(f"left out: {name} ({why})" for name, why in receipt.source.left_out.items()),
        f"receipt: {beside}",
    ]
    options.end(result, as_json, lambda: "\n  ".join(lines), name="conversion")


def _config(
    source: Path,
    wanted: tuple[str | None, Path | None, list[str]],
    choice: "Choice",
    classes: str | None,
) -> "ModelConfig":
    config, config_file, overrides = wanted
    if config is None and config_file is None:
        if overrides:
            raise InputError("overrides are given without --config-file", " ".join(overrides))
        entry = entry_that_fits(source, choice)
    else:
        entry = options.resolved(config, config_file, overrides)
    return options.with_classes(entry, classes, None).model


def _verify(path: Path, out: Path | None, as_json: bool) -> NoReturn:
    from weight_conversion.verification import verify

    notes: list[str] = []
    problems = verify(path, notes.append)
    verdict = "different" if problems else "equal"
    result = {"verdict": verdict, "problems": problems, "notes": notes}
    options.keep(result, out, "verification.json", report=False)
    told = "does not hold" if problems else "holds; every file, tensor and rule derived again"
    lines = [f"{path}: {told}", *problems, *notes]
    options.end(result, as_json, lambda: "\n  ".join(lines), not problems, name="conversion-check")
