"""The Model Garden's DETR beside that of `transformers`: what is equal, what is not, and why."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from parity.auditing.result import AuditResult
from parity.errors import InputError

EXAMPLE = "example: python -m examples.detr.compare --out runs/detr --json"
COMMAND = "python -m examples.detr.compare --out DIR"
OUTPUTS = {"logits": "model:output.logits", "boxes": "model:output.pred_boxes"}
EXPECTED = {  # what the engine should say of each difference: part of a place, part of a cause
    "stride_padding": ("embedder.embedder.convolution", "SAME padding"),
    "batch_norm_epsilon": ("embedder.embedder.normalization", "epsilon 0.001 instead of 1e-05"),
    "layer_norm_epsilon": ("layers.0.self_attn_layer_norm", "epsilon 1e-06 instead of 1e-05"),
    "no_attention_bias": ("layers.0.self_attn.q_proj", "without its bias"),
    "encoder_norm": ("model.encoder", "through a layer norm without scale"),
    "mask_rule": ("model", "nearest (pixel centres) resize"),
}
TEXTS = {
    "stride_padding": "strided convolutions and pooling pad on the far side only, at even sizes",
    "batch_norm_epsilon": "batch norms of the backbone have epsilon 1e-3 instead of 1e-5",
    "layer_norm_epsilon": "layer norms have epsilon 1e-6 instead of 1e-5",
    "no_attention_bias": "projections of the attention have no bias",
    "encoder_norm": "the encoder ends with one more norm",
    "mask_rule": "the padding mask is sampled at pixel centres instead of rounding down",
}


def audit_pair(
    names: Sequence[str],
    seed: int,
    executions: Sequence[str] | None,
    title: str,
    plant: str | None = None,
) -> AuditResult:
    """The audit of the reference and the Model Garden's DETR with the differences `names`."""
    import numpy as np

    from examples.detr import mapping, models, plants
    from parity.audits import Pair, audit

    differences = models.Differences(**dict.fromkeys(names, True))
    pixels, mask = models.images(differences, seed)

    pair = Pair(
        models.reference(seed),
        lambda: models.port(differences),
        {"pixel_values": pixels, "pixel_mask": mask},
        port_inputs=(np.ascontiguousarray(pixels.transpose(0, 2, 3, 1)),),
        names=mapping.NAMES,
        weights=mapping.weights(differences),
        stage=mapping.stage,
        after_loading=plants.PLANTS[plant].plant if plant else None,
    )
    with models.precision_of_keras():
        return audit(pair, executions=executions, title=title, command=COMMAND, quiet=True)


def effect(name: str, seed: int) -> dict[str, Any]:
    """One difference alone: what it does to the outputs, and what the engine says of it."""
    result = audit_pair([name], seed, (), TEXTS[name])
    gaps = {row.key: row.float64.gap for row in result.layers}
    place, cause = EXPECTED[name]
    first = result.localisation
    causes = {one.cause for one in result.localisations}
    return {
        "name": name,
        "text": TEXTS[name],
        "logits": gaps[OUTPUTS["logits"]],
        "boxes": gaps[OUTPUTS["boxes"]],
        "places": len(result.localisations),
        "first_place": first and first.path,
        "first_cause": first and first.cause,
        "named": first is not None
        and first.path.endswith(place)
        and all(one is not None and cause.split(" (")[0] in one for one in causes),
    }


def planted(name: str, seed: int) -> dict[str, Any]:
    """A fault in the pair that is equal otherwise: whether it is found, and named."""
    from examples.detr.plants import PLANTS

    fault = PLANTS[name]
    result = audit_pair([], seed, (), fault.text, name)
    first = result.localisation
    return {
        "name": name,
        "text": fault.text,
        "detected": result.verdict == "different",
        "place": first and first.path,
        "place_correct": first is not None and first.path == fault.path,
        "cause": first and first.cause,
        "cause_correct": first is not None and fault.cause in (first.cause or ""),
    }


def compare(out: Path, seed: int) -> dict[str, Any]:
    """Everything: as the Model Garden has it, without its differences, each alone, and faults.

    Both audits and their report are written to `out`. Progress goes to standard error.
    """
    from parity.audits import save
    from reports.render import write_report

    total = 2 + len(TEXTS) + len(_plants())
    done = 0

    def step(text: str) -> None:
        nonlocal done
        done += 1
        print(f"[{done}/{total}] {text}", file=sys.stderr, flush=True)

    step("as the Model Garden has it")
    published = audit_pair(list(TEXTS), seed, None, "DETR as the Model Garden has it")
    step("without the differences")
    title = "DETR of the Model Garden without the differences"
    reconciled = audit_pair([], seed, None, title)
    effects = []
    for name in TEXTS:
        step(f"difference {name} alone")
        effects.append(effect(name, seed))
    faults = []
    for name in _plants():
        step(f"planted fault {name}")
        faults.append(planted(name, seed))
    for name, result in (("published", published), ("reconciled", reconciled)):
        save(result, out / name)
    report = write_report([published, reconciled], out / "report")
    holds = (
        reconciled.verdict == "equal"
        and published.verdict == "different"
        and all(one["named"] for one in effects)
        and all(one["detected"] and one["place_correct"] for one in faults)
    )
    return {
        "verdict": "holds" if holds else "does not hold",
        "seed": seed,
        "published": _summary(published),
        "reconciled": _summary(reconciled),
        "differences": effects,
        "faults": faults,
        "not_compared": list(reconciled.not_verified),
        "report": str(report),
    }


def _plants() -> Sequence[str]:
    from examples.detr.plants import PLANTS

    return list(PLANTS)


def _summary(result: AuditResult) -> dict[str, Any]:
    return {
        "verdict": result.verdict,
        "tensors": result.taps,
        "above_limit": sum(not row.float64.passed for row in result.layers),
        "worst_gap": result.float64.worst_gap,
        "float32_ratio": {name: one.worst_ratio for name, one in result.float32.items()},
        "places": len(result.localisations),
        "explained": sum(one.cause is not None for one in result.localisations),
    }


def table(result: dict[str, Any]) -> str:
    """The result in lines that a person reads on a terminal."""
    lines = []
    for name, text in (("published", "as it is"), ("reconciled", "without the differences")):
        one = result[name]
        ratios = ", ".join(f"{way} {ratio:.2f}x" for way, ratio in one["float32_ratio"].items())
        lines.append(
            f"{text}: {one['verdict']} ({one['tensors']} tensors, {one['above_limit']} above their "
            f"float64 limit, {one['places']} places at fault, {one['explained']} explained)"
        )
        lines.append(f"  worst float64 gap {one['worst_gap']:.2g}; float32 error {ratios}")
    lines.append("each difference alone: relative change of logits, of boxes; what was named")
    for one in result["differences"]:
        lines.append(f"  {one['text']}: {one['logits']:.2g}, {one['boxes']:.2g}")
        named = "named" if one["named"] else "NOT NAMED"
        lines.append(f"    {named} at {one['places']} places, first {one['first_place']}")
        lines.append(f"    {one['first_cause']}")
    lines.append("planted faults")
    for one in result["faults"]:
        found = "found" if one["place_correct"] else "NOT FOUND"
        lines.append(f"  {one['text']}: {found} at {one['place']}")
        lines.append(f"    {one['cause'] or 'cause not named'}")
    lines += [f"verdict: {result['verdict']}", f"report: {result['report']}"]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.detr.compare",
        description="Compare the Model Garden's DETR with that of transformers, with the same "
        "random weights: as it is, without its differences, and with each difference alone. "
        "Exit status: 0 equal without its differences, and each one named; 1 not; 2 wrong usage.",
        epilog=EXAMPLE,
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="for audits, report")
    parser.add_argument("--seed", type=int, default=0, help="of weights and images; 0 by default")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    given = parser.parse_args(arguments)
    try:
        if given.seed < 0:
            raise InputError(f"--seed is {given.seed}", "expected a whole number from 0")
        if given.out.exists() and not given.out.is_dir():
            raise InputError(
                f"--out {given.out} is no folder", "a file has that name", "name another folder"
            )
        result = compare(given.out, given.seed)
    except InputError as error:
        print(f"compare: {error}", file=sys.stderr)
        return 2
    from parity.records import strict

    print(json.dumps(strict(result), allow_nan=False) if given.json else table(result))
    return 0 if result["verdict"] == "holds" else 1


if __name__ == "__main__":
    sys.exit(main())
