"""`parity zoo`: the published models and what is known about them."""

from typing import Annotated

import typer

from maskformer.model import zoo
from maskformer.model.config import ResNetConfig
from replication.commands import options
from replication.console.tables import print_table

COLUMNS = (
    *("config", "backbone", "head", "classes", "PQ", "mIoU", "multi-scale", "memory (MB)"),
    *("iterations", "batch", "checkpoint"),
)
SHORT = ("config", "backbone", "PQ", "mIoU", "checkpoint")


def register(app: typer.Typer) -> None:
    """Adds `parity zoo` to `app`."""
    app.command("zoo")(show)


def show(
    name: Annotated[str | None, typer.Argument(help="One entry; all without it.")] = None,
    as_json: options.AsJson = False,
) -> None:
    """List the published configs, or show one.

    Example: parity zoo coco_r50 --json
    """
    entries = [zoo.get(name)] if name else list(zoo.ENTRIES.values())
    values = [entry.to_dict() for entry in entries]
    told = values[0] if name else {"entries": values}
    kind = "zoo-entry" if name else "zoo"
    options.end(told, as_json, lambda: _print(entries, name is None), name=kind)


def _print(entries: list[zoo.Entry], every: bool) -> None:
    if every:
        print_table(_table(entries, COLUMNS), narrow=_table(entries, SHORT))
    else:
        print_table(_details(entries[0]))


def _table(entries: list[zoo.Entry], columns: tuple[str, ...]):
    from rich.table import Table

    caption = f"Published results: {zoo.SOURCE}"
    if columns != COLUMNS:
        caption += "; `parity zoo NAME` shows all of an entry"
    table = Table(title="MaskFormer model zoo", caption=caption)
    left = ("config", "backbone", "head", "checkpoint")
    for column in columns:
        table.add_column(column, no_wrap=True, justify="left" if column in left else "right")
    for entry in entries:
        row = dict(zip(COLUMNS, _row(entry), strict=True))
        table.add_row(*(row[column] for column in columns))
    return table


def _row(entry: zoo.Entry) -> tuple[str, ...]:
    published = entry.published
    results = ("", "", "", "", "")
    if published:
        is_pq = published.metric == "PQ"
        results = (
            f"{published.value:.1f}" if is_pq else "",
            "" if is_pq else f"{published.value:.1f}",
            f"{published.multi_scale:.1f}" if published.multi_scale is not None else "",
            f"{published.memory_mb:,}",
            published.file_name,
        )
    return (
        *(entry.name, backbone_name(entry), entry.model.head.removesuffix("Head")),
        str(entry.model.num_classes),
        *results[:4],
        f"{entry.solver.max_iter:,}",
        str(entry.solver.ims_per_batch),
        results[4],
    )


def backbone_name(entry: zoo.Entry) -> str:
    """The backbone as papers call it: "R50", "R101c", "Swin-B"."""
    backbone = entry.model.backbone
    if isinstance(backbone, ResNetConfig):
        return f"R{backbone.depth}{'c' if backbone.stem == 'deeplab' else ''}"
    sizes = {(96, 6): "T", (96, 18): "S", (128, 18): "B", (192, 18): "L"}
    return f"Swin-{sizes.get((backbone.embed_dim, backbone.depths[2]), backbone.embed_dim)}"


def _details(entry: zoo.Entry):
    from rich.table import Table

    table = Table(title=entry.name, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    values = entry.to_dict()
    for section in ("model", "solver", "inputs", "published"):
        for key, value in (values.pop(section) or {}).items():
            table.add_row(f"{section}.{key}", str(value))
    for key, value in values.items():
        table.add_row(key, str(value))
    return table
