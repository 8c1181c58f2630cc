"""Writes a folder for onnxruntime, sentence-transformers and transformers.js.

    config.json  tokenizer.json  tokenizer_config.json  ...
    onnx/model.onnx             float32
    onnx/model_quantized.onnx   8 bits

The names are those that transformers.js looks for; by default it uses the second file. For a
sentence encoder, modules.json, 1_Pooling and the prompts are copied too.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from minilm.checkpoints.hub import resolve
from minilm.errors import CheckpointError
from minilm.export.checking import (
    CALLS,
    calls,
    check_integers,
    check_mask,
    check_same,
    check_similar,
    check_stored_once,
)
from minilm.export.onnx_cleaning import clean
from minilm.export.onnx_graph import axis_names, input_names, single_precision, to_graph
from minilm.export.onnx_int8 import quantize_graph
from minilm.files.atomic import file_list, new_directory
from minilm.files.file_names import (
    CONFIG,
    EXITS,
    MODULES,
    TOKENIZER_FILES,
    copy_companions,
)
from minilm.files.json_file import json_bytes
from minilm.files.libraries import library
from minilm.files.progress import DELAY
from minilm.loader import load, missing_tensors
from minilm.models.pretrained import PretrainedModel
from minilm.models.tasks import ForPreTraining
from minilm.sentence.files import read_sentence_settings, write_sentence_settings
from minilm.tokenization.tokenizer import Tokenizer

FLOAT_FILE, INT8_FILE = "onnx/model.onnx", "onnx/model_quantized.onnx"

# a text for the calls that files are compared on
SAMPLE = (
    "A lighthouse keeper writes down the weather every evening. Which of the two is heavier, she "
    "asked, the box or the barrel? The committee postponed its decision, although nobody had asked "
    "for more time. In 1924 the river flooded three streets, and the mayor had a bridge built from "
    "oak. It was not a good film: too long, badly lit, and full of jokes that I had heard before. "
    "Please book a table for four people near the station on Friday at half past seven."
)


@dataclass(frozen=True)
class ExportReport:
    """The files of an export, and how close their outputs are to the model's.

    Attributes:
        model: the class whose outputs the files compute.
        inputs, outputs: their names in the graph.
        files: all files, by their paths in the folder, sorted.
        float_bytes: size of onnx/model.onnx.
        parameter_bytes: size of the model's parameters in float32.
        float_error: largest difference from the model over eight calls, divided by the output's
            largest absolute value if that is above 1.
        int8_bytes: size of onnx/model_quantized.onnx; None without it.
        int8_cosine: smallest cosine with the model's outputs, see `check_similar`; None without it.
    """

    model: str
    inputs: list[str]
    outputs: list[str]
    files: list[str]
    float_bytes: int
    parameter_bytes: int
    float_error: float
    int8_bytes: int | None = None
    int8_cosine: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """The attributes, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [
            f"{FLOAT_FILE}: {self.float_bytes:,} bytes, largest difference {self.float_error:.1e}"
        ]
        if self.int8_bytes is not None:
            share = self.int8_bytes / self.float_bytes
            lines.append(
                f"{INT8_FILE}: {self.int8_bytes:,} bytes ({share:.2f} of it), smallest cosine "
                f"{self.int8_cosine:.4f}"
            )
        return "\n".join(lines)


def export_onnx(
    model: PretrainedModel | str | os.PathLike[str],
    directory: str | os.PathLike[str],
    *,
    tokenizer: Tokenizer | None = None,
    int8: bool = True,
    progress: bool = False,
) -> ExportReport:
    """Writes a model as ONNX files, with all other files that programs need.

    Every file is run in onnxruntime on eight calls, padded and not, and compared with the model
    before the folder appears. Batch size and sequence length may be any. Inputs and outputs have
    the names of Hugging Face's optimum: input_ids, attention_mask and token_type_ids (not
    DistilBERT); last_hidden_state, logits, or start_logits and end_logits. Weights are float32
    whatever the checkpoint stores; those of a quantised model are dequantised. Of a pretraining
    model, the masked-LM head is exported.

    Args:
        model: a directory, a hub name, or a model.
        directory: a directory that does not exist yet, or is empty. It appears complete or not at
            all.
        tokenizer: the tokenizer of a model that is given as an object; for a directory it is found
            there.
        int8: whether to write onnx/model_quantized.onnx too.
        progress: show a progress bar on stderr if it takes longer than two seconds.

    Returns:
        Files, sizes and differences.

    Raises:
        ExportError: the model cannot be recorded, or a file does not give its outputs.
        CheckpointError: the checkpoint lacks a part, or `directory` is not empty.
        DependencyError: onnx, onnxscript or onnxruntime is not installed.

    Example:
        >>> report = minilm.export_onnx("sentence-mini", "exported")
        >>> report.outputs
        ['last_hidden_state']
    """
    for name in ("onnx", "onnxscript", "onnxruntime"):
        library(name, "export")
    steps = 2 + len(CALLS) + int8 * (1 + len(CALLS))
    with (
        new_directory(Path(directory)) as complete,
        tqdm(total=steps, unit=" steps", file=sys.stderr, disable=not progress, delay=DELAY) as bar,
    ):
        if not isinstance(model, PretrainedModel):
            model, tokenizer = _load_companions(resolve(model), complete)
        model = single_precision(model)
        _write_config(model, complete)
        if tokenizer is not None:
            _write_tokenizer(tokenizer, model, complete)
        bar.set_description("recording")
        report = _write_files(model, complete, tokenizer, int8, bar)
        return dataclasses.replace(report, files=file_list(complete))


def _write_files(
    model: PretrainedModel, folder: Path, tokenizer: Tokenizer | None, int8: bool, bar: Any
) -> ExportReport:
    """Writes and checks the files; the list of files in the report is still empty."""
    ir = library("onnx_ir", "export")
    float_file, int8_file = folder / FLOAT_FILE, folder / INT8_FILE
    float_file.parent.mkdir()
    graph = to_graph(model)
    bar.update()
    clean(graph, axis_names(model))
    ir.save(graph, float_file)
    bar.update()
    bar.set_description("checking")
    check_stored_once(float_file, model)
    sample = None if tokenizer is None else _sample_ids(tokenizer, model)
    made = calls(model, sample)
    error = check_same(float_file, made, bar.update)
    check_mask(float_file, made, lambda: None)
    report = ExportReport(
        model=_exported_class(model),
        inputs=input_names(model),
        outputs=list(made[0].outputs),
        files=[],
        float_bytes=float_file.stat().st_size,
        parameter_bytes=sum(parameter.numel() * 4 for parameter in model.parameters()),
        float_error=error,
    )
    if not int8:
        return report
    bar.set_description("quantising")
    graph = ir.load(float_file)
    quantize_graph(graph)
    ir.save(graph, int8_file)
    bar.update()
    check_integers(int8_file)
    cosine = check_similar(int8_file, made, bar.update)
    check_mask(int8_file, made, lambda: None)
    return dataclasses.replace(report, int8_bytes=int8_file.stat().st_size, int8_cosine=cosine)


def _load_companions(
    directory: Path, destination: Path
) -> tuple[PretrainedModel, Tokenizer | None]:
    """Loads the model and tokenizer of a directory, and copies their companion files."""
    settings = read_sentence_settings(directory)
    source = directory / settings.folder
    model = load(source, new_parts="allow")
    if missing := _missing(model):
        raise CheckpointError(
            f"{source} does not store {', '.join(missing)} of its {type(model).__name__}, which "
            "would be exported with random values. Fine-tune it first, or correct architectures "
            f"in {CONFIG} to the class that the weights belong to."
        )
    copy_companions(source, destination)
    (destination / EXITS).unlink(missing_ok=True)  # the graphs do not have its classifiers
    if settings.folder and (directory / MODULES).exists():
        (destination / CONFIG).write_bytes(json_bytes(model.config.to_dict()))  # its width is read
        longest = settings.max_length or model.config.max_position_embeddings
        write_sentence_settings(
            destination, dataclasses.replace(settings, folder="", max_length=longest)
        )
    stored = any((source / name).is_file() for name in TOKENIZER_FILES)
    return model, Tokenizer.from_pretrained(source) if stored else None


def _missing(model: PretrainedModel) -> list[str]:
    """The tensors that the exported outputs need and the checkpoint does not store."""
    unread: set[str] = set()
    if model.base is model or isinstance(model, ForPreTraining):
        pairs = ("next_sentence_head.", "sentence_order_head.")
        unread = set(missing_tensors(model, ("encoder.pooler.", *pairs)))
    return [name for name in missing_tensors(model) if name not in unread]


def _exported_class(model: PretrainedModel) -> str:
    """The class whose outputs the graph has: for a pretraining model, the masked LM."""
    name = type(model).__name__
    return name.replace("ForPreTraining", "ForMaskedLM")


def _write_config(model: PretrainedModel, folder: Path) -> None:
    config = model.config.to_dict()
    config.pop("torch_dtype", None)  # the older name of the same
    config |= {"architectures": [_exported_class(model)], "dtype": "float32"}
    (folder / CONFIG).write_bytes(json_bytes(config))


def _write_tokenizer(tokenizer: Tokenizer, model: PretrainedModel, folder: Path) -> None:
    """Writes tokenizer.json, and the settings that the programs' tokenizer classes read.

    transformers.js gives token types only to the classes of BERT and ALBERT: with another name a
    question and its text would silently become one segment. transformers builds the normaliser of
    these classes from the settings, so a class is named only if its settings agree with
    tokenizer.json.
    """
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_bytes())
    limit = model.config.max_position_embeddings
    settings["model_max_length"] = min(tokenizer.model_max_length or limit, limit)
    settings["model_input_names"] = input_names(model)
    if "token_type_ids" in input_names(model):
        parts = json.loads(tokenizer.backend.to_str())
        kind, normalizer = parts["model"]["type"], parts["normalizer"] or {}
        if kind == "WordPiece" and normalizer.get("type") == "BertNormalizer":
            settings["tokenizer_class"] = "BertTokenizer"
            settings["do_lower_case"] = normalizer["lowercase"]
            settings["strip_accents"] = normalizer["strip_accents"]
            settings["tokenize_chinese_chars"] = normalizer["handle_chinese_chars"]
        elif kind == "Unigram":
            settings["tokenizer_class"] = "AlbertTokenizer"
    path.write_bytes(json_bytes(settings))


def _sample_ids(tokenizer: Tokenizer, model: PretrainedModel) -> list[int] | None:
    """Token ids of the sample text; None if the vocabulary does not cover English words."""
    ids = tokenizer(SAMPLE, truncation=False)["input_ids"]
    flat = [int(number) for number in ids.flatten()]
    known = len({number for number in flat if number != tokenizer.unk_token_id})
    usable = known > len(flat) // 4 and max(flat) < model.config.vocab_size
    return flat if usable else None
