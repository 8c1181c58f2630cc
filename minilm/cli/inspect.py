"""`minilm inspect`: what a checkpoint is made of."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import click
from torch import nn

from minilm.blocks.int8 import without_scales
from minilm.checkpoints.hub import resolve
from minilm.cli.help import Command
from minilm.files.file_names import weight_files
from minilm.loader import load
from minilm.models.pretrained import PretrainedModel


@dataclass(frozen=True)
class Component:
    """A part of a model.

    Attributes:
        name: its path in the model.
        parameters: number of its parameters, without the scales of 8-bit numbers.
        bytes: memory of these and the scales, in the stored dtype.
        applied: number of times that a forward pass applies it.
    """

    name: str
    parameters: int
    bytes: int
    applied: int = 1


def components(model: PretrainedModel) -> list[Component]:
    """Embeddings, every layer or shared group, pooler and heads, in this order.

    The masked-LM head reads the word embeddings too; they count once, as embeddings.
    """
    return [
        Component(
            name,
            sum(parameter.numel() for parameter in without_scales(part)),
            sum(parameter.nbytes for parameter in part.parameters()),
            applied,
        )
        for name, part, applied in _parts(model)
    ]


def _parts(model: PretrainedModel) -> Iterator[tuple[str, nn.Module, int]]:
    base = model.base
    prefix = "" if base is model else "encoder."
    virtual = list(base.virtual_layers())
    yield f"{prefix}embeddings", base.embeddings, 1
    for name, parts in base.named_children():
        if isinstance(parts, nn.ModuleList):
            for number, part in enumerate(parts):
                # a group's layers are applied equally often; a layer is its own only member
                member = next(module for module in part.modules() if module in virtual)
                yield f"{prefix}{name}.{number}", part, virtual.count(member)
    if base.pooler is not None:
        yield f"{prefix}pooler", base.pooler, 1
    if base is not model:
        for name, part in model.named_children():
            if part is not base and any(True for _ in part.parameters()):
                yield name, part, 1


def describe(path_or_repo: str) -> dict[str, Any]:
    """Everything that `minilm inspect --json` prints."""
    directory = resolve(path_or_repo)
    model = load(directory, dtype="auto", new_parts="allow")
    assert model.load_report is not None
    config = {
        spec.name: getattr(model.config, spec.name) for spec in dataclasses.fields(model.config)
    }
    return {
        "directory": str(directory),
        "class": type(model).__name__,
        "model_type": model.config.model_type,
        "dtype": str(model.dtype).removeprefix("torch."),
        "config": config,
        "components": [dataclasses.asdict(component) for component in components(model)],
        "parameters": model.num_parameters(),
        "bytes": sum(parameter.nbytes for parameter in model.parameters()),
        "files": {path.name: path.stat().st_size for path in weight_files(directory)},
        "load_report": model.load_report.as_dict(),
        "load_summary": str(model.load_report),
    }


@click.command(cls=Command)
@click.argument("model")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with every tensor's verdict.")
def command(model: str, as_json: bool) -> None:
    """Show a checkpoint's class, configuration, size by component and load report.

    The report says for every stored tensor whether it was loaded, renamed, dropped or is missing.

    \b
    Example:
      minilm inspect albert-3x2-mini
        AlbertForMaskedLM (albert), float16
        ...
        component                         parameters           bytes  applied
        encoder.embeddings                 1,073,920       2,147,840        1
        encoder.groups.0                   2,369,280       4,738,560        2
        masked_lm_head                        41,152          82,304        1
        total                              3,484,352       6,968,704
        ...
    """
    description = describe(model)
    summary = description.pop("load_summary")
    if as_json:
        click.echo(json.dumps(description, indent=2))
        return
    click.echo(f"{description['class']} ({description['model_type']}), {description['dtype']}\n")
    click.echo("configuration")
    extra = description["config"].pop("extra")
    for name, value in description["config"].items():
        click.echo(f"  {name:<30}{value}")
    for name, value in extra.items():
        click.echo(f"  {name:<30}{value}  (not used by minilm)")
    click.echo(f"\n{'component':<30}{'parameters':>14}{'bytes':>16}{'applied':>9}")
    for part in description["components"]:
        click.echo(
            f"{part['name']:<30}{part['parameters']:>14,}{part['bytes']:>16,}{part['applied']:>9}"
        )
    click.echo(f"{'total':<30}{description['parameters']:>14,}{description['bytes']:>16,}\n")
    for name, size in description["files"].items():
        click.echo(f"{name}: {size:,} bytes")
    click.echo(f"\n{summary}")
