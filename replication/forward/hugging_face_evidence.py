"""Why transformers' MaskFormer differs from the original, measured: outputs, loss, training."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from maskformer.model.config import ModelConfig
from parity.calls import fill, flatten
from parity.frameworks.torch import capture as capture_torch
from parity.judge import FUNCTION_CAP, Verdict, function_verdict
from parity.localise import Localisation
from parity.metrics import Gap, gap
from parity.trace import Tap, Trace
from replication.forward.hugging_face import DECODER, PIXEL_DECODER, PREDICTOR
from replication.sides.torch_side import build_reference
from replication.sides.weights import Weights
from torch_reference.criterion import SetCriterion, weighted_total

MASK_FEATURES = f"{PIXEL_DECODER}.mask_features:output"
TARGETS = 8  # segments of the case that the losses are compared on


@dataclass(frozen=True)
class _Candidate:
    """What an output of the heads may have been computed from."""

    source: str
    normed: bool
    outputs: Mapping[str, np.ndarray]

    def __str__(self) -> str:
        return f"decoder.norm({self.source})" if self.normed else self.source


def explain(
    config: ModelConfig,
    weights: Weights,
    trace: Trace,
    port_outputs: Mapping[str, Any],
    function: Mapping[str, Gap],
    floors: Mapping[str, Gap],
) -> tuple[list[Localisation], dict[str, Any]]:
    """Which hidden state each output of both sides was computed from, found by measurement.

    Every hidden state of the decoder that the reference shows is put through the heads, with and
    without the decoder's norm; an output is explained by the state that gives it to within
    `FUNCTION_CAP`, the most that the same-function claim allows any rounding.

    Args:
        trace: the reference's float64 taps; `floors` their floors.
        port_outputs: the port's float64 outputs.
        function: the port's float64 gaps.

    Returns: a localisation where outputs differ, and what was found: for both sides the source of
        each output (None where no state explains it), last output first.
    """
    candidates = _candidates(config, weights, trace)
    reference = {tap.name: tap.array for tap in trace.values() if _is_output(tap)}
    port = dict(flatten(port_outputs, lambda value: isinstance(value, np.ndarray))[1])
    sources = {
        side: {
            prefix: _source(prefix, outputs, candidates)
            for prefix in sorted({name.rpartition(".")[0] for name in outputs})
        }
        for side, outputs in (("reference", reference), ("port", port))
    }
    named = {
        side: {prefix or "final": str(found) if found else None for prefix, found in one.items()}
        for side, one in sources.items()
    }
    verdicts = {
        key: function_verdict(key, found, floors[key])
        for key, found in function.items()
        if key.startswith("model:output")
    }
    failed = [one for one in verdicts.values() if one.fails]
    if not failed:
        return [], named
    return [_localisation(sources, verdicts, failed)], named


def _is_output(tap: Tap) -> bool:
    return tap.path == "" and tap.kind == "output"


def _candidates(config: ModelConfig, weights: Weights, trace: Trace) -> list[_Candidate]:
    """The heads' outputs from every hidden state in `trace`, by our reference's own heads."""
    predictor = build_reference(config, weights, "float64").get_submodule(PREDICTOR)
    features = torch.from_numpy(trace[MASK_FEATURES].array)
    keys = [f"{DECODER}.layers.0:input.tgt"]
    keys += [f"{DECODER}.layers.{layer}:output" for layer in range(config.predictor.dec_layers)]
    found = []
    for key in keys:
        for normed in (False, True):
            with torch.no_grad():
                state = torch.from_numpy(trace[key].array)
                state = predictor.transformer.decoder.norm(state) if normed else state
                outputs = {
                    "pred_logits": predictor.class_embed(state).numpy(),
                    "pred_masks": torch.einsum(
                        "bqc,bchw->bqhw", predictor.mask_embed(state), features
                    ).numpy(),
                }
            found.append(_Candidate(key.removeprefix(f"{PREDICTOR}.transformer."), normed, outputs))
    return found


def _source(
    prefix: str, outputs: Mapping[str, np.ndarray], candidates: list[_Candidate]
) -> _Candidate | None:
    """The candidate that gives both outputs called `prefix`, or None."""
    for candidate in candidates:
        gaps = [
            gap(outputs[f"{prefix}.{name}" if prefix else name], expected)
            for name, expected in candidate.outputs.items()
        ]
        if all(one.problem is None and max(one.l2, one.max) <= FUNCTION_CAP for one in gaps):
            return candidate
    return None


def _localisation(
    sources: Mapping[str, Mapping[str, _Candidate | None]],
    verdicts: Mapping[str, Verdict],
    failed: list[Verdict],
) -> Localisation:
    unexplained = [
        f"{side} {prefix}"
        for side, found in sources.items()
        for prefix, source in found.items()
        if source is None
    ]
    auxiliary = {
        side: [source for prefix, source in found.items() if prefix]
        for side, found in sources.items()
    }
    missing_norm = not unexplained and {
        side: all(one.normed for one in found) for side, found in auxiliary.items()
    } == {"reference": False, "port": True}
    path = f"{DECODER}.norm" if missing_norm else "model"
    lines = [
        f"{path}: {len(auxiliary['reference'])} auxiliary outputs in the reference, "
        f"{len(auxiliary['port'])} in the port, of other hidden states [float64]"
    ]
    for side, found in auxiliary.items():
        texts = [f"{index} from {source}" for index, source in enumerate(found)]
        lines.append(f"{side}: aux_outputs {', '.join(texts)}")
    passed = [one for one in verdicts.values() if one.passed]
    most = max((one.ratio for one in passed), default=0.0)
    lines.append(f"{len(passed)} outputs agree (worst {most:.2g}x): {', '.join(_keys(passed))}")
    if unexplained:
        lines.append(f"no hidden state of the decoder gives {', '.join(unexplained)}")
    cause = "decoder.norm is not applied to intermediate layers" if missing_norm else None
    return Localisation(path, "wiring", failed[0].key, "\n  ".join(lines), cause, tuple(failed))


def _keys(verdicts: list[Verdict]) -> list[str]:
    return [verdict.key for verdict in verdicts]


def effect_on_loss(
    config: ModelConfig, reference: Mapping[str, Any], port: Mapping[str, Any], seed: int
) -> dict[str, Any]:
    """The weighted training loss of both sides' float64 outputs by our criterion, on one case.

    The case: `TARGETS` rectangles of random classes in each image, drawn from `seed`.

    Returns: for each side `total`, `final` (the last layer's part) and `auxiliary`; `total_ratio`
        is the reference's total in units of the port's, `final_difference` relative.
    """
    criterion = SetCriterion(config).double()
    batch, _, height, width = port["pred_masks"].shape
    targets = _rectangles(config, batch, 4 * height, 4 * width, seed)
    found: dict[str, Any] = {"seed": seed, "targets_per_image": TARGETS}
    for side, outputs in (("reference", reference), ("port", port)):
        template, arrays = flatten(outputs, lambda value: isinstance(value, np.ndarray))
        tensors = {name: torch.from_numpy(np.array(array)) for name, array in arrays}
        losses = criterion(fill(template, lambda slot, of=tensors: of[slot.name]), targets)
        final = {name: value for name, value in losses.items() if not name[-1].isdigit()}
        total = float(weighted_total(losses, config.loss))
        last = float(weighted_total(final, config.loss))
        found[side] = {"total": total, "final": last, "auxiliary": total - last}
    ours, theirs = found["port"], found["reference"]
    found["total_ratio"] = theirs["total"] / ours["total"]
    found["final_difference"] = abs(theirs["final"] - ours["final"]) / ours["final"]
    return found


def _rectangles(
    config: ModelConfig, batch: int, height: int, width: int, seed: int
) -> list[dict[str, torch.Tensor]]:
    random = np.random.default_rng(seed)
    targets = []
    for _ in range(batch):
        masks = np.zeros((TARGETS, height, width), bool)
        for mask in masks:
            top, left = random.integers(height // 2), random.integers(width // 2)
            rows, columns = random.integers(8, height // 2), random.integers(8, width // 2)
            mask[top : top + rows, left : left + columns] = True
        labels = random.integers(config.num_classes, size=TARGETS)
        targets.append({"labels": torch.from_numpy(labels), "masks": torch.from_numpy(masks)})
    return targets


def training_differences(model: torch.nn.Module, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """What the library trains that the original freezes, measured on its float64 model.

    Returns: `trained_batch_norm_values`, how many scales and offsets of batch norms have gradients;
        `batch_statistics_gap`, the relative L2 change of the mask logits when its batch norms use
        the batch's statistics, as in training, and nothing else does (None without batch norms);
        `default_attention_dropout`, the library's own setting.
    """
    from transformers import MaskFormerConfig

    norms = [one for one in model.modules() if isinstance(one, torch.nn.BatchNorm2d)]
    found: dict[str, Any] = {
        "trained_batch_norm_values": sum(
            parameter.numel()
            for norm in norms
            for parameter in norm.parameters()
            if parameter.requires_grad
        ),
        "batch_statistics_gap": None,
        "default_attention_dropout": MaskFormerConfig().decoder_config.attention_dropout,
    }
    if norms:
        before = capture_torch.forward(model, dict(inputs))["pred_masks"]
        for norm in norms:
            norm.train()
        after = capture_torch.forward(model, dict(inputs))["pred_masks"]
        found["batch_statistics_gap"] = gap(after, before).l2
    return found
