"""`minilm export`: a checkpoint as files for other engines."""

from __future__ import annotations

import json
from pathlib import Path

import click

from minilm.cli.help import Command
from minilm.export.folder import export_onnx
from minilm.files.progress import is_watched


@click.command(cls=Command)
@click.argument("model")
@click.argument("directory", type=click.Path(path_type=Path))
@click.option(
    "--no-int8",
    is_flag=True,
    help="Write only onnx/model.onnx, not onnx/model_quantized.onnx.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object: files, sizes and differences."
)
def command(model: str, directory: Path, no_int8: bool, as_json: bool) -> None:
    """Write MODEL as ONNX files to the new directory DIRECTORY.

    onnxruntime, sentence-transformers (backend="onnx") and transformers.js load it: config.json,
    the tokenizer's files, onnx/model.onnx in float32 and onnx/model_quantized.onnx in 8 bits. Every
    file is run and compared with the model before the directory appears.

    \b
    Examples:
      minilm export sentence-mini exported/
        exported/config.json
        ...
        exported/onnx/model.onnx
        exported/onnx/model_quantized.onnx
        exported/tokenizer.json
        ...
      minilm export my-classifier/ exported/ --no-int8 --json
    """
    report = export_onnx(model, directory, int8=not no_int8, progress=is_watched())
    if as_json:
        click.echo(json.dumps(report.to_dict()))
        return
    click.echo(report, err=True)
    for name in report.files:
        click.echo(directory / name)
