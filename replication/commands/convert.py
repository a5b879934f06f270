"""`parity convert`: a checkpoint into another format, with a receipt that can be verified."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from parity.errors import InputError
from replication.commands.fitting import entry_that_fits

if TYPE_CHECKING:
    from maskformer.model.config import ModelConfig


def register(app: typer.Typer) -> None:
    """Adds `parity convert` to `app`."""
    app.command("convert")(convert)


def convert(
    source: Annotated[Path | None, typer.Argument(help="Checkpoint of any known kind.")] = None,
    target: Annotated[Path | None, typer.Argument(help="File, or folder for tf and hf.")] = None,
    overrides: Annotated[list[str] | None, typer.Argument(help="KEY VALUE ... of a YAML.")] = None,
    to: Annotated[str | None, typer.Option(help="tf, torch, hf or safetensors.")] = None,
    config: Annotated[str | None, typer.Option(help="Name of a zoo config.")] = None,
    config_file: Annotated[Path | None, typer.Option(help="The original's YAML file.")] = None,
    dtype: Annotated[
        str | None, typer.Option(help="Convert floats: float32, float64 or float16.")
    ] = None,
    ema: Annotated[bool, typer.Option("--ema", help="Take the moving average.")] = False,
    verify: Annotated[Path | None, typer.Option(help="Verify this receipt instead.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Convert a checkpoint; every tensor is accounted for in a receipt beside the result.

    Without --config the zoo config that fits is taken.

    Example: parity convert model_final_6f60dc.pkl coco_r50_tf --to tf --config coco_r50

    Example: parity convert --verify coco_r50_tf/receipt.json
    """
    if verify is not None:
        _verify(verify, as_json)
        return
    if source is None or target is None or to is None:
        raise InputError(
            "the conversion is incomplete",
            "expected: parity convert SRC DST --to tf|torch|hf|safetensors",
            "or: parity convert --verify RECEIPT",
        )
    from replication.console.progress import bytes_shown
    from weight_conversion.convert import convert as run
    from weight_conversion.receipt import receipt_path, size_of

    chosen = _config(source, config, config_file, overrides or [], ema)
    with bytes_shown("converting", not as_json) as progress:
        receipt = run(
            source,
            target,
            to,
            chosen,
            dtype=dtype,
            ema=ema,
            progress=progress,
            say=lambda line: print(line, file=sys.stderr),
        )
    beside = receipt_path(target, to)
    if as_json:
        print(json.dumps({"target": str(target), "receipt": str(beside), **receipt}, indent=1))
        return
    print(f"{source} ({receipt['source']['kind']}) -> {target} ({to}), {chosen.name}")
    print(f"  {len(receipt['tensors'])} tensors, {size_of(receipt['tensors']):,} bytes")
    for note in receipt["source"]["notes"]:
        print(f"  {note}")
    for name, reason in receipt["source"]["left_out"].items():
        print(f"  left out: {name} ({reason})")
    print(f"  receipt: {beside}")


def _config(
    source: Path, config: str | None, config_file: Path | None, overrides: list[str], ema: bool
) -> "ModelConfig":
    if config is not None or config_file is not None:
        from maskformer.model.detectron2_config import resolve

        return resolve(config, config_file, overrides).model
    if overrides:
        raise InputError("overrides are given without --config-file", " ".join(overrides))
    return entry_that_fits(source, ema).model


def _verify(path: Path, as_json: bool) -> None:
    from weight_conversion.verification import verify

    problems = verify(path)
    if as_json:
        verdict = "different" if problems else "equal"
        print(json.dumps({"verdict": verdict, "problems": problems}, indent=1))
    elif problems:
        print(f"{path}: does not hold")
        for problem in problems:
            print(f"  {problem}")
    else:
        print(f"{path}: holds; every file, tensor and rule derived again")
    if problems:
        sys.exit(1)
