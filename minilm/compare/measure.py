"""Measures checkpoints in turn and puts everything about them into one dictionary."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn
from tqdm.auto import tqdm

from minilm.bench.contenders import INT8, base_class
from minilm.bench.load import LoadWatch
from minilm.bench.machine import describe_machine
from minilm.bench.measure import LATENCY_REPEATS, ONE_TEXT, take_turns
from minilm.bench.memory import held_by_tensors, in_fresh_process, peak_resident
from minilm.bench.workload import BATCH_SIZE, SEED, TEXTS, Batch, draw_lengths, make_batches
from minilm.blocks.int8 import without_scales
from minilm.checkpoints.hub import resolve
from minilm.compare.text_scores import score_text
from minilm.config import AlbertConfig
from minilm.costs.counting import cost
from minilm.errors import CheckpointError, DataError, InputError
from minilm.files.file_names import weight_files
from minilm.files.json_file import read_json
from minilm.files.progress import DELAY, is_watched
from minilm.loader import load, missing_tensors
from minilm.models.encoder import EncoderModel
from minilm.models.int8 import is_int8
from minilm.models.pretrained import PretrainedModel
from minilm.models.tasks import ForMaskedLM, ForPreTraining
from minilm.tasks.catalogue import is_finetuned
from minilm.tasks.prediction import Predictor
from minilm.tokenization.tokenizer import Tokenizer

CARD = "card.json"  # beside a checkpoint: what its makers say of it
MAX_CARD = 2**20  # bytes


@dataclass(frozen=True)
class CompareSettings:
    """One run of `compare`.

    Attributes:
        texts: number of texts of the standard draw, for speed and peak memory.
        rounds: number of timing rounds.
        max_tokens: maximum number of tokens of the text to predict masked words in; None = all.
        seed: random seed of masks and ids.
        memory: whether to measure memory, in a process for each model.
        dtype: dtype of the weights in memory, as for `from_pretrained`; None = int8 where they are
            stored so, else float32.
    """

    texts: int = TEXTS
    rounds: int = 3
    max_tokens: int | None = 40_000
    seed: int = SEED
    memory: bool = True
    dtype: str | None = None

    def __post_init__(self) -> None:
        for name in ("texts", "rounds", "max_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}: expected at least 1.")


def compare(
    models: Sequence[str | Path],
    documents: Sequence[str],
    settings: CompareSettings,
    say: Callable[[str], None] = lambda _: None,
    *,
    source: str = "the text",
    tasks: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
) -> dict[str, Any]:
    """Measures checkpoints side by side; ratios are relative to the first.

    Args:
        models: directories or hub names, the baseline first.
        documents: texts to predict masked words of, one paragraph a line.
        settings: what to measure.
        say: receives a message about every stage.
        source: what the reports call the documents.
        tasks: labelled records by name, to score models that were fine-tuned for them.

    Returns:
        What `minilm compare --json` prints: "machine", "workload", and "models", a list of
        dictionaries: "name", "class", "dtype" (of the weights in memory), "card", "architecture",
        "layers", "components" (parameters), "parameters", "file_bytes", "flops_per_token",
        "one_text_seconds", "tokens_per_second", "memory" ("weights", their "copies" for inference
        and "peak", bytes), "rounds" ("one_text_seconds" and "tokens_per_second" of every round; the
        figures of those names are their medians), "scores" (see `TextScores`; None if no masked-LM
        head is stored), "tasks" (by name: "metric", "score" and "examples", how many records; {}
        without a head), and "relative", all figures of a kind divided by the first model's.

    Raises:
        InputError: there is no model, two have the same name, or a tokenizer is too large for its
            model.
        CheckpointError: a model cannot be loaded, or the head for `tasks` is not stored.
    """
    if not models:
        raise InputError("There is no model to compare.")
    directories = {_name(model): Path(resolve(model)) for model in models}
    if len(directories) < len(models):
        raise InputError("Two of the models have the same name: give each one once.")
    rows: dict[str, dict[str, Any]] = {}
    for name, directory in directories.items():
        say(f"{name}: reading the text")
        rows[name] = describe(name, directory, documents, settings)
        rows[name]["tasks"] = score_tasks(directory, tasks or {}, say, settings.dtype)
    encoders = {
        name: _load_base(directory, settings.dtype) for name, directory in directories.items()
    }
    configs = [encoder.config for encoder in encoders.values()]
    vocab_size = min(config.vocab_size for config in configs)
    longest = min(config.max_position_embeddings for config in configs)
    lengths = [min(n, longest) for n in draw_lengths(settings.texts)]
    bulk, one = (
        make_batches(
            some, batch_size=min(len(some), BATCH_SIZE), vocab_size=vocab_size, seed=settings.seed
        )
        for some in (lengths, [min(ONE_TEXT, longest)])
    )
    say(f"speed of {len(encoders)} models, in turn" if len(encoders) > 1 else "speed")
    watch = LoadWatch()
    for key, batches, rounds in (
        ("one_text_seconds", one, settings.rounds * LATENCY_REPEATS),
        ("bulk_seconds", bulk, settings.rounds),
    ):
        with _progress(key, len(encoders) * len(batches) * rounds) as step:
            found = take_turns(encoders, batches, rounds, _encode, told=step)
        for name, seconds in found.items():
            rows[name]["rounds"][key] = seconds
    load = watch.report()
    tokens = sum(lengths)
    for name, row in rows.items():
        bulk_seconds = row["rounds"].pop("bulk_seconds")
        row["rounds"]["tokens_per_second"] = [tokens / seconds for seconds in bulk_seconds]
        for key, values in row["rounds"].items():
            row[key] = median(values)
        if settings.memory:
            say(f"{name}: memory")
            row["memory"] = in_fresh_process(_memory, directories[name], bulk, settings.dtype)
    first = next(iter(rows.values()))
    for row in rows.values():
        row["relative"] = _relative(row, first)
    return {
        "machine": {**describe_machine(), "load": load},
        "workload": {
            "texts": settings.texts,
            "tokens": tokens,
            "one_text_tokens": min(ONE_TEXT, longest),
            "rounds": settings.rounds,
            "documents": len(documents),
            "source": source,
        },
        "models": list(rows.values()),
    }


def describe(
    name: str, directory: Path, documents: Sequence[str], settings: CompareSettings
) -> dict[str, Any]:
    """Everything about one checkpoint that needs no comparison."""
    model = load(directory, dtype=settings.dtype, new_parts="allow").eval()
    config = model.config
    scores = None
    headless = missing_tensors(model, "masked_lm_head")
    if isinstance(model, ForMaskedLM | ForPreTraining) and not headless:
        scores = vars(
            score_text(
                model,
                Tokenizer.from_pretrained(directory),
                documents,
                max_tokens=settings.max_tokens,
                seed=settings.seed,
                sentence_order=not missing_tensors(model),
            )
        )
    return {
        "name": name,
        "class": type(model).__name__,
        "dtype": INT8 if is_int8(model) else str(model.dtype).removeprefix("torch."),
        "card": read_card(directory),
        "architecture": _architecture(model),
        "layers": {
            "stored": len(set(model.base.virtual_layers())),
            "applied": len(list(model.base.virtual_layers())),
        },
        "components": component_sizes(model),
        "parameters": model.num_parameters(),
        "file_bytes": sum(path.stat().st_size for path in weight_files(directory)),
        "flops_per_token": cost(config).flops,
        "rounds": {},
        "scores": scores,
    }


def score_tasks(
    directory: Path,
    tasks: Mapping[str, Sequence[Mapping[str, Any]]],
    say: Callable[[str], None] = lambda _: None,
    dtype: str | None = None,
) -> dict[str, dict[str, Any]]:
    """The main score of a fine-tuned checkpoint on every task, 0 to 1; {} without a head."""
    if not tasks or not is_finetuned(directory):
        return {}
    predictor = Predictor.from_pretrained(directory, dtype=dtype)
    metric = predictor.task.metric
    scores = {}
    for name, records in tasks.items():
        say(f"{directory.name}: {name}")
        try:
            score = float(predictor.evaluate(records)[metric]) / predictor.task.best_score
        except DataError as problem:  # it was fine-tuned for another task
            say(f"{directory.name}: not scored on {name}: {problem}")
            continue
        scores[name] = {"metric": metric, "score": score, "examples": len(records)}
    return scores


def read_card(directory: Path) -> dict[str, Any]:
    """The content of card.json beside a checkpoint; {} without one.

    Raises:
        CheckpointError: the file is not a JSON object.
    """
    path = directory / CARD
    if not path.exists():
        return {}
    return read_json(path, max_bytes=MAX_CARD, error=CheckpointError)


def component_sizes(model: PretrainedModel) -> dict[str, int]:
    """Parameters of embeddings, layers, pooler and heads; shared ones count once."""
    base = model.base
    parts: dict[str, list[nn.Module]] = {
        "embeddings": [base.embeddings],
        "layers": list(base.virtual_layers()),
        "pooler": [] if base.pooler is None else [base.pooler],
        "heads": [] if base is model else [m for m in model.children() if m is not base],
    }
    return {
        name: sum({id(p): p.numel() for m in modules for p in without_scales(m)}.values())
        for name, modules in parts.items()
    }


def _name(model: str | Path) -> str:
    return Path(model).name or str(model)


def _architecture(model: PretrainedModel) -> str:
    config, virtual = model.config, list(model.base.virtual_layers())
    applied, stored = len(virtual), len(set(virtual))
    layers = f"{applied} layers" if stored == applied else f"{applied} layers, {stored} stored"
    wide = f"{config.hidden_size} wide, {config.num_attention_heads} heads"
    if isinstance(config, AlbertConfig):
        wide += f", embeddings {config.embedding_size} wide"
    return f"{layers}, {wide}"


@contextmanager
def _progress(what: str, total: int) -> Iterator[Callable[[], object]]:
    """A bar on a terminal or in a notebook; yields the function to call after every step."""
    bar = tqdm(
        total=total,
        desc={"one_text_seconds": "one text", "bulk_seconds": "in bulk"}[what],
        bar_format="{desc}: {percentage:.0f}%|{bar}| {elapsed}, {remaining} left",
        delay=DELAY,
        leave=False,
        disable=not is_watched(),
    )
    with bar:
        yield bar.update


def _encode(encoder: EncoderModel, batch: Batch) -> None:
    with torch.inference_mode():
        encoder(batch.packed_ids, lengths=batch.lengths)


def _load_base(directory: Path, dtype: str | None) -> EncoderModel:
    loaded = base_class(directory).from_pretrained(directory, dtype=dtype, new_parts="allow")
    return loaded.base.eval()


def _memory(directory: Path, batches: Sequence[Batch], dtype: str | None) -> dict[str, int]:
    before = held_by_tensors()
    encoder = _load_base(directory, dtype)
    weights = held_by_tensors() - before
    for batch in batches:
        _encode(encoder, batch)
    copies = held_by_tensors() - before - weights  # packed for inference with the first batch
    return {"weights": weights, "copies": copies, "peak": peak_resident()}


def _relative(row: Mapping[str, Any], first: Mapping[str, Any]) -> dict[str, float | None]:
    """Shares of the first model's figures; for speeds, above 1 = faster."""

    def share(value: float | None, base: float | None) -> float | None:
        return value / base if value is not None and base else None

    scores, base_scores = row["scores"] or {}, first["scores"] or {}
    return {
        "parameters": row["parameters"] / first["parameters"],
        "file_bytes": row["file_bytes"] / first["file_bytes"],
        "flops_per_token": row["flops_per_token"] / first["flops_per_token"],
        "one_text_speed": first["one_text_seconds"] / row["one_text_seconds"],
        "bulk_speed": row["tokens_per_second"] / first["tokens_per_second"],
        **{
            f"task {name}": share(result["score"], first["tasks"].get(name, {}).get("score"))
            for name, result in row["tasks"].items()
        },
        "masked_accuracy": share(scores.get("masked_accuracy"), base_scores.get("masked_accuracy")),
    }
