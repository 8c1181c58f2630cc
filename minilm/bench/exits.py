"""Early exit measured: score and speed of several rules, against all layers for every text.

Every rule runs on the same texts in the same batches, in the order in which they come, in one
process and in turn, batch by batch; texts are tokenised and packed before the clock starts. Full
depth is the plain model, without exits. For comparison there are fixed depths for all texts, each
with the exit that was trained for it, as in a smaller model with the same weights. Before anything
is timed, a rule by which no text exits must give the bits of the plain model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from minilm.bench.load import LoadWatch
from minilm.bench.machine import describe_machine
from minilm.bench.measure import DisagreementError, spread, take_turns
from minilm.data.records.base import Skips
from minilm.errors import InputError, argument
from minilm.files.arrays import Floats, Integers
from minilm.loader import load_finetuned
from minilm.models.early_exit import EarlyExit, ExitHeads, ExitRule, answer_kind, same_answer
from minilm.models.pretrained import PretrainedModel
from minilm.tasks.catalogue import task_of
from minilm.tasks.exits import load_exits
from minilm.tasks.task import Sample, Task, TaskBatch, collate, run_model
from minilm.tokenization.tokenizer import Tokenizer

FULL = "full depth"
BATCH_SIZE = 32
THRESHOLDS = (0.7, 0.8, 0.9, 0.95, 0.98)
PATIENCE = (1, 2, 3, 4, 6)
SHARES = (0.25, 0.5, 0.75)  # of all applications, for the depths that all texts have in common

Engine = PretrainedModel | EarlyExit


@dataclass(frozen=True)
class ExitBenchSettings:
    """One run of `bench_exits`.

    Attributes:
        thresholds: thresholds of confidence, for models that predict classes.
        patience: how often in a row an answer must have stayed the same.
        tolerance: for models that predict a number, which need it for patience: numbers that differ
            by less are the same answer.
        depths: depths at which all texts exit; None = a quarter, a half and three quarters.
        batch_size: number of texts in a batch.
        rounds: number of timing rounds.

    Raises:
        InputError: a number is out of range.
    """

    thresholds: tuple[float, ...] = THRESHOLDS
    patience: tuple[int, ...] = PATIENCE
    tolerance: float | None = None
    depths: tuple[int, ...] | None = None
    batch_size: int = BATCH_SIZE
    rounds: int = 5

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.rounds < 1:
            raise InputError("batch_size and rounds must be at least 1.")

    def rules(self, model: PretrainedModel, applications: int) -> dict[str, ExitRule]:
        """The rules by their names, for a model with this many applications of layers.

        A patience that no text can reach before the last layer is left out.
        """
        depths = self.depths
        if depths is None:
            depths = tuple(sorted({max(1, round(share * applications)) for share in SHARES}))
        if wrong := [depth for depth in depths if not 1 <= depth < applications]:
            raise InputError(
                f"{argument('depth')} is {wrong[0]}: the model applies {applications} layers, so "
                f"exits are after 1 to {applications - 1}."
            )
        number = answer_kind(model.config) == "value"
        found: dict[str, ExitRule] = {}
        for threshold in () if number else self.thresholds:
            found[f"threshold {threshold:g}"] = ExitRule(threshold=threshold)
        for patience in self.patience if self.tolerance is not None or not number else ():
            if patience < applications - 1:
                rule = ExitRule(patience=patience, tolerance=self.tolerance if number else None)
                found[f"patience {patience}"] = rule
        return {**found, **{f"depth {depth}": ExitRule(depth=depth) for depth in depths}}


def bench_exits(
    directory: Path,
    records: Sequence[Mapping[str, Any]],
    settings: ExitBenchSettings,
    *,
    skips: Skips | None = None,
    columns: Mapping[str, Any] | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Measures rules of early exit on a checkpoint that was fine-tuned with exits.

    Args:
        directory: directory of the checkpoint.
        records: labelled records of the task.
        settings: what to measure.
        skips: what to do with bad records; None = they are errors.
        columns: which columns are read, see `Task.name_columns`.
        say: receives a message about every stage.

    Returns:
        What `minilm bench exits --json` prints: "model", "workload", "machine", "metric" and
        "rules": for full depth and every rule its score, mean_applications, applications (how many
        texts left after 1 to L of them), same_answers (share of texts with the answer of full
        depth; of numbers within the tolerance, null without one), seconds (median over rounds, for
        all texts), texts_per_second, and speed-up over full depth: median, lowest and highest over
        rounds. "fastest_at_full_score" is the fastest rule whose score is not below that of full
        depth, None if there is none.

    Raises:
        DisagreementError: a rule by which no text exits does not give the model's answers.
        MinilmError: there are no exits, or no usable records.
    """
    model = load_finetuned(directory)
    task, tokenizer = task_of(directory, model), Tokenizer.from_pretrained(directory)
    heads = load_exits(directory, model, task)
    task.name_columns(columns or {})
    examples = task.examples(records, skips or Skips(), labelled=True)
    if not examples:
        raise InputError("There is no record to measure with.")
    samples = task.samples(examples, tokenizer)
    batches = in_order(task, samples, settings.batch_size)
    applications = len(heads.classifiers) + 1
    rules = settings.rules(model, applications)
    engines: dict[str, Engine] = {FULL: model}
    engines |= {name: EarlyExit(model, heads, rule) for name, rule in rules.items()}
    say("checking that a rule by which no text exits gives the model's answers")
    check_full_depth(model, heads, batches[0])
    rows: dict[str, dict[str, Any]] = {}
    found: dict[str, list[Floats]] = {}
    for name, engine in engines.items():
        say(f"scoring {name}")
        found[name], applied = answers(task, engine, batches, applications)
        scores = task.scores(examples, task.decode(examples, samples, found[name]))
        rows[name] = {
            "score": float(scores[task.metric]),
            "mean_applications": float(applied.mean()),
            "applications": np.bincount(applied, minlength=applications + 1)[1:].tolist(),
            "same_answers": _same(model, settings, found[FULL], found[name]),
        }
    say(f"timing {len(engines)} ways in turn: batches {len(batches)}, rounds {settings.rounds}")
    watch = LoadWatch()
    timed = take_turns(engines, batches, settings.rounds, _run)
    for name, seconds in timed.items():
        ratios = [full / own for full, own in zip(timed[FULL], seconds, strict=True)]
        rows[name] |= {
            **spread(seconds),
            "texts_per_second": len(samples) / median(seconds),
            "speedup": {"median": median(ratios), "lowest": min(ratios), "highest": max(ratios)},
        }
    return {
        "model": {
            "model_type": model.config.model_type,
            "applications": applications,
            "parameters": model.num_parameters(),
            "exit_parameters": sum(p.numel() for p in heads.parameters()),
        },
        "workload": {
            "texts": len(samples),
            "tokens": sum(batch.tokens for batch in batches),
            "batch_size": settings.batch_size,
            "rounds": settings.rounds,
        },
        "machine": {
            **describe_machine(),
            "load": watch.report(),
        },
        "metric": task.metric,
        "rules": rows,
        "fastest_at_full_score": fastest_at_full_score(rows),
    }


def in_order(task: Task[Any], samples: Sequence[Sample], batch_size: int) -> list[TaskBatch]:
    """Samples in batches of `batch_size`, in the given order."""
    numbers = np.arange(len(samples))
    starts = range(0, len(samples), batch_size)
    return [collate(task, samples, numbers[start : start + batch_size]) for start in starts]


@torch.inference_mode()
def check_full_depth(model: PretrainedModel, heads: ExitHeads, batch: TaskBatch) -> None:
    """Raise DisagreementError if answers change although no text leaves at an exit."""
    depth = len(heads.classifiers) + 1
    (plain,) = run_model(model, batch, batch.lengths)
    (kept,) = run_model(EarlyExit(model, heads, ExitRule(depth=depth)), batch, batch.lengths)
    if not torch.equal(plain, kept):
        raise DisagreementError(
            "With exits that no text takes, the answers differ from the model's by up to "
            f"{float((plain - kept).abs().max()):.1e}. A comparison would mean nothing."
        )


@torch.inference_mode()
def answers(
    task: Task[Any], engine: Engine, batches: Sequence[TaskBatch], applications: int
) -> tuple[list[Floats], Integers]:
    """What the task keeps of each sample's logits, and (N,) how many layers it went through."""
    outputs: list[Floats] = []
    applied: list[Integers] = []
    for batch in batches:
        if isinstance(engine, EarlyExit):
            names = ("logits", "applications")
            logits, counts = run_model(engine, batch, batch.lengths, names)
            applied.append(counts.numpy())
        else:
            (logits,) = run_model(engine, batch, batch.lengths)
            applied.append(np.full(len(logits), applications))
        outputs += task.outputs(logits, batch)
    return outputs, np.concatenate(applied)


def fastest_at_full_score(rows: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The name of the fastest rule that loses nothing against full depth, if there is one."""
    full = rows[FULL]["score"]
    able = [name for name, row in rows.items() if name != FULL and row["score"] >= full]
    return max(able, key=lambda name: rows[name]["speedup"]["median"], default=None)


def _same(
    model: PretrainedModel,
    settings: ExitBenchSettings,
    full: Sequence[Floats],
    found: Sequence[Floats],
) -> float | None:
    """The share of texts whose answer is that of full depth."""
    kind = answer_kind(model.config)
    if kind == "value" and settings.tolerance is None:
        return None
    one, other = (torch.from_numpy(np.stack(list(outputs))) for outputs in (full, found))
    return float(same_answer(kind, one, other, settings.tolerance).float().mean())


@torch.inference_mode()
def _run(engine: Engine, batch: TaskBatch) -> None:
    run_model(engine, batch, batch.lengths)
