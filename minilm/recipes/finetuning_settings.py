"""The settings of fine-tuning, from which the options of `minilm finetune` are made."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from minilm.errors import InputError
from minilm.learners.soft_targets import SoftTargets
from minilm.recipes.settings import LoopSettings, option, other_default, warn_of_no_learning
from minilm.training.settings import TrainingSettings

# fields of the loop that have another meaning here, or follow from the data
OWN_MEANING = {
    "steps": "epochs, which say how many steps there are",
    "warmup": "warmup, a share of all steps",
}


@dataclass(frozen=True, kw_only=True)
class FinetuningSettings(LoopSettings):
    """Settings of a fine-tuning run.

    None stands for the default that `minilm.recipes.finetuning.defaults` has for the model and the
    task. Besides the settings below, there are those of the training loop: schedule, power, decay,
    layer_decay, optimiser, betas, epsilon, weight_decay, shared_weight_decay, average_weights,
    max_gradient_norm, accumulation, gradient_checkpointing, precision, log_every, keep_snapshots,
    workers, on_nonfinite, max_skips and on_save_error, as in `minilm.TrainingSettings`.

    Attributes:
        epochs: number of passes over the training samples.
        batch_size: number of samples in a step.
        learning_rate: peak learning rate, reached at the end of the warm-up.
        warmup: fraction of all steps in which the learning rate rises; then it decays.
        max_length: maximum sequence length in tokens.
        evaluate_every: number of steps between evaluations; None = twice an epoch.
        snapshot_every: number of steps between snapshots; None = once an epoch.
        select: metric that selects the best evaluation, whose weights are kept; None = the task's
            own metric, "last" = keep the last weights.
        patience: early stopping: the run ends after this number of evaluations in a row without
            improvement; None = never.
        balance: how classes of unequal frequency are balanced: "none"; "weights" of the loss, for
            classification, tagging, utterances and multi-label (see `minilm.tasks.balance`); or
            "sampling", for classification.
        labelled_share: with unlabelled records: fraction of the samples of an epoch that have
            labels; the labelled records are repeated to make up this fraction. None = every record
            comes once.
        freeze_embeddings: do not train the embeddings.
        freeze_layers: number of layers, from the bottom, that are not trained.
        exits: also train a classifier after every application of a layer but the last, for early
            exit (see `minilm.models.early_exit`), in tasks on whole texts. The loss is then the
            mean over all depths, weighted by depth.
        resize_embeddings: give the model a new row for every token that the tokenizer has beyond
            the model's vocabulary; otherwise such tokens are an error.
        text_column, pair_column, label_column: columns of the records with the text, the second
            text of a pair and the label (or several columns of zeros and ones, one for each label);
            None = found by their names, see `minilm.tasks.layouts`.
        options: options of the task, such as `doc_stride` or `out_of_scope`.
        soft_targets: temperature and weights of the loss on a teacher's predictions.
        precision: None = bfloat16 where the hardware computes in it.
        seed: random seed of the new head, the order of the samples and dropout.
        loop: settings of the training loop as a dictionary: {"weight_decay": 0.1} has the same
            effect as weight_decay=0.1. The field is empty afterwards.

    Raises:
        InputError: names the setting that is out of range, unknown, or given twice.
    """

    epochs: int | None = option(
        None,
        "Number of passes over the training data. Default: 2 to 4, by the task.",
        low=1,
        group="optimisation",
    )
    batch_size: int | None = option(
        None,
        "Batch size of a step, in samples. Default: 16 or 32, by the task.",
        low=1,
        group="optimisation",
    )
    learning_rate: float | None = option(
        None,
        "Peak learning rate, reached at the end of the warm-up. Default: 5e-5; for ALBERT "
        "2e-5, for hidden sizes below 512 1e-4.",
        float,
        low=0,
        group="optimisation",
    )
    warmup: float | None = option(
        None,
        "Fraction of all steps over which the learning rate warms up. Default: 0.1.",
        float,
        low=0,
        below=1,
        group="optimisation",
    )
    max_length: int | None = option(
        None,
        "Maximum sequence length in tokens. Default: 128 to 384, by the task.",
        low=1,
        group="data",
    )
    evaluate_every: int | None = option(
        None,
        "Number of steps between evaluations. Default: twice an epoch.",
        low=0,
        group="evaluation",
    )
    snapshot_every: int | None = option(
        None,
        "Number of steps between snapshots, from which an interrupted run resumes. Default: "
        "once an epoch.",
        low=0,
        group="run",
    )
    select: str | None = option(
        None,
        "Metric that selects the best evaluation, whose weights are kept. Default: the "
        "task's own metric; last = keep the last weights.",
        str,
        group="evaluation",
    )
    patience: int | None = option(
        None,
        "Early stopping: end after this many evaluations in a row without improvement. "
        "Default: never.",
        low=1,
        group="evaluation",
    )
    balance: Literal["none", "weights", "sampling"] = option(
        "none",
        "Balance classes of unequal frequency: weights = weighted loss (classification, tagging, "
        "utterances, multi-label), sampling = draw all classes equally often (classification).",
        str,
        choices=("none", "weights", "sampling"),
        group="loss",
    )
    labelled_share: float | None = option(
        None,
        "With --unlabelled: fraction of the samples of an epoch that have labels; the labelled "
        "records are repeated to reach it. Default: every record is used once.",
        float,
        above=0,
        below=1,
        group="data",
    )
    freeze_embeddings: bool = option(
        False, "Do not train the embeddings.", bool, group="optimisation"
    )
    freeze_layers: int = option(
        0, "Number of layers, from the bottom, that are not trained.", low=0, group="optimisation"
    )
    exits: bool = option(
        False,
        "Also train a classifier after every application of a layer (classification, multi-label, "
        "regression), for early exit: predict --exit-threshold or --exit-patience. The model "
        "itself stays one that any program loads.",
        bool,
        group="model",
    )
    resize_embeddings: bool = option(
        False,
        "Give the model new embeddings for tokens that were added to its tokenizer.",
        bool,
        group="model",
    )
    text_column: str | None = None
    pair_column: str | None = None
    label_column: str | Sequence[str] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    soft_targets: SoftTargets = field(default_factory=SoftTargets)
    log_every: int = other_default(LoopSettings, "log_every", 10)
    loop: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value in self.loop.items():
            self._take(name, value)
        object.__setattr__(self, "loop", {})
        for name in ("epochs", "batch_size", "max_length", "patience"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise InputError(f"{name} is {value!r}: expected a whole number from 1.")
        warn_of_no_learning(self.learning_rate)

    def _take(self, name: str, value: Any) -> None:
        """Makes an entry of `loop` the field that it is."""
        fields = {field.name: field for field in dataclasses.fields(self)}
        known = [field.name for field in dataclasses.fields(TrainingSettings)]
        if name in OWN_MEANING:
            raise InputError(f"loop has {name!r}: in fine-tuning, give {OWN_MEANING[name]}.")
        if name not in known or name not in fields:
            usual = ", ".join(each for each in known if each not in OWN_MEANING)
            raise InputError(f"loop has {name!r}, which the loop does not know. It has {usual}.")
        given = getattr(self, name)
        if given not in (fields[name].default, value):
            raise InputError(f"{name} is {given!r}, but {value!r} in loop: give one of them.")
        object.__setattr__(self, name, value)
