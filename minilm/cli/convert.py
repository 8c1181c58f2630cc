"""`minilm convert`: the same checkpoint, written cleanly."""

from __future__ import annotations

from pathlib import Path

import click

from minilm.checkpoints.hub import resolve
from minilm.checkpoints.pickled import convert_pickle
from minilm.checkpoints.tensorflow import convert_tensorflow, find_prefix, find_source
from minilm.cli.help import Command
from minilm.cli.options import choice, given_options
from minilm.compression.quantisation import quantize
from minilm.compression.sharing import share
from minilm.errors import CheckpointError
from minilm.files.archive import extracted
from minilm.files.atomic import file_list, new_directory
from minilm.files.file_names import CONFIG, copy_companions
from minilm.loader import check_vocabulary, load, missing_tensors
from minilm.models.pretrained import DTYPES
from minilm.recipes.card import write_card
from minilm.recipes.converted_card import converted_card
from minilm.tokenization.tokenizer import Tokenizer

INT8 = "int8"


def rewrite(
    source: str, destination: Path, dtype: str, sharing: str | int | None = None
) -> list[str]:
    """Loads a checkpoint and saves it in the current layout: one file, current tensor names.

    Args:
        source: a directory or hub name.
        destination: a directory that does not exist yet, or is empty. It appears complete or not
            at all.
        dtype: dtype of the saved weights: a name of `DTYPES`, "int8", or "auto" (as stored).
        sharing: how an ALBERT's layers are shared, as for `AlbertConfig.with_sharing`; layers that
            become one are averaged. None = as stored.

    Returns:
        The names of the files written, sorted.

    Raises:
        CheckpointError: the source cannot be loaded or is incomplete, or the destination is not
            empty.
        InputError: `sharing` is given, and the source is not an ALBERT.
        ConfigError: its layers cannot be shared like this.
    """
    directory = resolve(source)
    with new_directory(destination) as complete:
        # layers are shared, or not, as floats
        as_float = "float32" if sharing is not None and dtype == INT8 else dtype
        model = load(directory, dtype=as_float, new_parts="allow")
        if missing := missing_tensors(model):
            raise CheckpointError(
                f"{directory} does not store {', '.join(missing)} of its "
                f"{type(model).__name__}; random values would be written. Correct architectures "
                f"in {CONFIG} to the class that the weights belong to."
            )
        click.echo(model.load_report, err=True)
        if sharing is not None:
            before = model.num_parameters()
            model = share(model, sharing, merge="average")
            click.echo(f"{before:,} parameters became {model.num_parameters():,}", err=True)
            model = quantize(model) if dtype == INT8 else model
        model.save_pretrained(complete)
        copy_companions(directory, complete)
        return file_list(complete)


def convert_original(source: Path, destination: Path) -> list[str]:
    """Converts one of Google's original checkpoints, and loads the result once.

    Args:
        source: an archive, a directory, or the prefix of a checkpoint.
        destination: a directory that does not exist yet, or is empty. It appears complete or not
            at all.

    Returns:
        The names of the files written, sorted.

    Raises:
        CheckpointError: the checkpoint is damaged, of another kind, or lacks a part.
        ConfigError: its configuration is damaged.
        TokenizerFileError: its vocabulary is damaged.
        DependencyError: it has a sentencepiece model, and the package `protobuf` is missing.
    """
    with extracted(source) as files, new_directory(destination) as complete:
        report = convert_tensorflow(find_source(files), complete)
        click.echo(report, err=True)
        model = load(complete, new_parts="allow")
        if missing := missing_tensors(model):
            raise CheckpointError(
                f"{source} does not store {', '.join(missing)}, which its {type(model).__name__} "
                "needs. Is the checkpoint complete?"
            )
        if (complete / "spiece.model").exists() or (complete / "vocab.txt").exists():
            tokenizer = Tokenizer.from_pretrained(complete)
            check_vocabulary(model.config, tokenizer)
            tokenizer.save_pretrained(complete)
        return file_list(complete)


def _is_tensorflow(source: str) -> bool:
    """Whether SOURCE can only mean a TensorFlow checkpoint."""
    path = Path(source)
    return not (path / CONFIG).exists() and find_prefix(path) is not None


@click.command(cls=Command)
@click.argument("source")
@click.argument("destination", type=click.Path(path_type=Path))
@click.option(
    "--from-pickle",
    is_flag=True,
    help="Read the weights from pytorch_model.bin, a pickle. Only tensors are read from it and "
    "no code in it is run; still, use this only for files that you trust.",
)
@click.option(
    "--from-tensorflow",
    is_flag=True,
    help="SOURCE is one of Google's original TensorFlow 1 checkpoints of BERT or ALBERT (v1, v2, "
    "Chinese; also albert_zh's): the downloaded .tar.gz or .zip, the directory extracted from it, "
    "a TF-Hub module, or a prefix such as albert_base/model.ckpt-best. TensorFlow is not needed. "
    "By default this is detected where SOURCE has an .index file and no config.json.",
)
@click.option(
    "--dtype",
    type=click.Choice(["auto", *DTYPES, INT8]),
    help="Precision of the written weights. Default: auto, as stored. For 16 bits config.json "
    "still says float32, so that other libraries load and fine-tune them in float32. int8: a "
    "quarter of the size of float32, for minilm only (other libraries refuse it).",
)
@click.option(
    "--share",
    "sharing",
    type=choice("all", "attention", "feed_forward", "none", "N"),
    help="Which parameters the layers of an ALBERT share in the result: all of them, those of "
    "attention, those of the feed-forward blocks, none, or, with a number N, all of them "
    "in groups of N successive layers. Weights that become one are averaged. Default: as "
    "in SOURCE.",
)
def command(
    source: str,
    destination: Path,
    from_pickle: bool,
    from_tensorflow: bool,
    dtype: str | None,
    sharing: str | int | None,
) -> None:
    """Write the checkpoint SOURCE to the new directory DESTINATION.

    Shards are merged into one file, old tensor names are replaced by those of today's transformers,
    and the files of the tokenizer are copied. The result loads in minilm and in transformers.

    \b
    Examples:
      minilm convert bert-mini half --dtype float16
        half/README.md
        half/config.json
        half/model.safetensors
        half/tokenizer.json
        half/tokenizer_config.json
      minilm convert all-MiniLM-L6-v2 all-MiniLM-L6-v2-int8 --dtype int8
      minilm convert downloaded/ clean/ --from-pickle
      minilm convert unshared/ shared/ --share 4
      minilm convert albert_base_v2.tar.gz albert-base-v2/ --from-tensorflow
      minilm verify albert-base-v2/ --as albert-base-v2

    The last line checks a converted checkpoint against outputs that others published for it; see
    minilm verify --help for the names.
    """
    if from_pickle and from_tensorflow:
        raise click.UsageError("--from-pickle and --from-tensorflow exclude each other.")
    tensorflow = from_tensorflow or (not from_pickle and _is_tensorflow(source))
    kind = "--from-pickle" if from_pickle else "--from-tensorflow"
    for option, value in (("--dtype", dtype), ("--share", sharing)):
        if (from_pickle or tensorflow) and value is not None:
            raise click.UsageError(
                f"{option} cannot be combined with {kind}: convert the result once more."
            )
    if from_pickle:
        written = convert_pickle(Path(source), destination)
    elif tensorflow:
        written = convert_original(Path(source), destination)
    else:
        written = rewrite(source, destination, dtype or "auto", sharing)
    card = converted_card(source, destination, given_options(without=("config",)))
    written = sorted([*written, *filter(None, [write_card(destination, card)])])
    for name in written:
        click.echo(destination / name)
