"""What a tensor inside a MaskFormer is: the names of its axes and the stage it belongs to.

One table serves both frameworks; they differ in how they lay out feature maps and tokens.
"""

STAGES = (
    "input",
    "backbone",
    "pixel_decoder",
    "transformer",
    "heads",
    "matching",
    "loss",
    "gradient",
    "update",
    "inference",
    "metric",
)


def axis_names(path: str, kind: str, name: str, rank: int, *, image: str, tokens: str) -> str:
    """One letter per axis of a tensor that goes into or comes out of the module at `path`.

    Args:
        path: module path, "" for the whole model.
        kind: "input", "output", or "mask" for a dropout mask drawn inside the module; that of
            attention weights has no names, because both frameworks hold them in one order.
        name: place inside the arguments or results, such as `features.res5`.
        rank: number of axes.
        image: axes of a feature map, "NCHW" or "NHWC".
        tokens: axes of the transformers' tokens, "SNC" or "NSC".
    """
    if kind == "mask" and path.endswith("_attn"):
        return ""
    last = name.rsplit(".", 1)[-1]
    if last in ("pred_masks", "sem_seg"):
        return "NQHW"
    if last == "shift_mask":
        return "WTS"
    if path.endswith(".attn_drop"):
        return "NHTS"
    if path.startswith("sem_seg_head.predictor.") and rank == 4 and _holds_queries(path, name):
        return "LNSC"
    if ".transformer." in path:
        if rank == 4:
            return f"L{tokens}"
        if rank == 3:
            return "NTS" if name == "1" else tokens
    return {4: image, 3: "NSC", 2: "NX", 1: "X", 0: ""}[rank]


def _holds_queries(path: str, name: str) -> bool:
    """Whether a tensor of rank 4 in the predictor is [layers, batch, queries, channels]."""
    part = path.split(".")[2]
    return part in ("class_embed", "mask_embed") or (
        path == "sem_seg_head.predictor.transformer" and name == "0"
    )


def stage_of(path: str) -> str:
    """The stage that the module at `path` belongs to; the whole model counts as `heads`."""
    if path.startswith("backbone"):
        return "backbone"
    if path.startswith("sem_seg_head.pixel_decoder"):
        return "pixel_decoder"
    if path.startswith(
        tuple(
            f"sem_seg_head.predictor.{part}" for part in ("transformer", "pe_layer", "input_proj")
        )
    ):
        return "transformer"
    return "heads"
