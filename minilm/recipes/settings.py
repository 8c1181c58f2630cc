"""What all recipes have in common: fields that are options, and the settings of the loop.

A recipe is a frozen dataclass. From its fields come the options of the command (cli/options.py),
the arguments of the Python call and, by way of what they build, the identity of the run. A default
is stated once, here.

Recipes import models and data when they are prepared, not before: `--help` reads only the fields.
"""

from __future__ import annotations

import dataclasses
import os
import re
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

from minilm.errors import InputError, argument
from minilm.training.settings import (
    OnNonfinite,
    OnSaveError,
    Optimiser,
    Precision,
    Schedule,
    TrainingSettings,
)

if TYPE_CHECKING:
    import torch

    from minilm.models.pretrained import PretrainedModel
    from minilm.recipes.corpus import CorpusSettings
    from minilm.recipes.runs import Run
    from minilm.training.distributed import Processes
    from minilm.training.learner import TrainingData
    from minilm.training.loop import Result
    from minilm.training.observers import Observer

MaskingName = Literal["tokens", "whole_words", "ngrams", "rare_tokens"]

Group = Literal["model", "data", "loss", "optimisation", "evaluation", "run", "output"]

EVALUATIONS = 20  # in a run, unless evaluate_every says otherwise
SNAPSHOTS = 20
# fields that a recipe does not hand to the loop as they are
DERIVED = ("steps", "warmup", "precision", "evaluate_every", "snapshot_every", "select", "patience")


def option(
    default: Any,
    help: str,
    of: type = int,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
    choices: tuple[str, ...] = (),
    none: str | None = None,
    flags: str = "",
    metavar: str | None = None,
    group: Group | None = None,
) -> Any:
    """A field of a recipe, with what the command line needs to make an option of it.

    Args:
        default: `dataclasses.MISSING` = it must be given.
        help: the option's help.
        of: the type: int, float, str, bool, os.PathLike, or tuple for a pair of numbers.
        low, high: the range, both included.
        above, below: the range, both excluded.
        choices: the allowed values; "_" is written "-" on the command line.
        none: the word for None on the command line.
        flags: the option's names, if they differ from the field's.
        metavar: how the help names the value.
        group: the section of the help that lists the option.
    """
    metadata = {
        "help": help,
        "of": of,
        "low": low,
        "high": high,
        "above": above,
        "below": below,
        "choices": choices,
        "none": none,
        "flags": flags,
        "metavar": metavar,
        "group": group,
    }
    return dataclasses.field(default=default, metadata=metadata)


def other_default(recipe: type, name: str, default: Any) -> Any:
    """The same field as in another recipe, with another default."""
    (found,) = (field for field in dataclasses.fields(recipe) if field.name == name)
    return dataclasses.field(default=default, metadata=found.metadata)


@dataclass(frozen=True, kw_only=True)
class LoopSettings:
    """The settings of the loop that all recipes have; see `minilm.TrainingSettings`.

    `precision` None = bfloat16 where the hardware computes in it. `gradient_checkpointing` changes
    memory and time, nothing else.
    """

    schedule: Schedule = option(
        TrainingSettings.schedule,
        "Learning rate schedule after the warm-up.",
        str,
        choices=get_args(Schedule),
        group="optimisation",
    )
    power: float = option(
        TrainingSettings.power,
        "Exponent of the polynomial schedule.",
        float,
        low=0,
        group="optimisation",
    )
    decay: float = option(
        TrainingSettings.decay,
        "Share of all steps over which the schedule wsd (warm-up, stable, decay) decays.",
        float,
        above=0,
        high=1,
        group="optimisation",
    )
    layer_decay: float = option(
        TrainingSettings.layer_decay,
        "Layer-wise decay of the learning rate: each layer learns at the rate of the one above "
        "it times this number; 1 = the same rate for all.",
        float,
        above=0,
        high=1,
        group="optimisation",
    )
    optimiser: Optimiser = option(
        TrainingSettings.optimiser,
        "Optimiser: AdamW; LAMB for large batches; or Muon for the weight matrices of the layers "
        "and AdamW for all other parameters, at the same learning rate.",
        str,
        choices=get_args(Optimiser),
        group="optimisation",
    )
    betas: tuple[float, float] = option(
        TrainingSettings.betas,
        "Decay rates of the optimiser's running means of gradients and their squares.",
        tuple,
        group="optimisation",
    )
    epsilon: float = option(
        TrainingSettings.epsilon,
        "Epsilon in the denominator of the optimiser.",
        float,
        low=0,
        flags="--epsilon --eps",
        group="optimisation",
    )
    weight_decay: float = option(
        TrainingSettings.weight_decay,
        "Weight decay of the optimiser; norms and biases are never decayed.",
        float,
        low=0,
        group="optimisation",
    )
    shared_weight_decay: float | None = option(
        TrainingSettings.shared_weight_decay,
        "Weight decay of matrices that are applied more than once, such as those of the layer "
        "that ALBERT shares. Default: that of --weight-decay.",
        float,
        low=0,
        group="optimisation",
    )
    average_weights: float | None = option(
        TrainingSettings.average_weights,
        "Average the weights over the updates and evaluate and save the average: decay of the "
        "exponential moving average, for example 0.999 for about the last 1000 updates. Default: "
        "no average.",
        float,
        above=0,
        below=1,
        group="optimisation",
    )
    max_gradient_norm: float | None = option(
        TrainingSettings.max_gradient_norm,
        "Gradient clipping: the largest norm of the gradient; 0 = no clipping.",
        float,
        low=0,
        flags="--max-gradient-norm --max-grad-norm",
        group="optimisation",
    )
    accumulation: int = option(
        TrainingSettings.accumulation,
        "Gradient accumulation: number of micro-batches that a step is divided into to save "
        "memory. The batch size of a step stays the same.",
        low=1,
        flags="--accumulation --gradient-accumulation-steps",
        group="optimisation",
    )
    gradient_checkpointing: bool = option(
        False,
        "Recompute the activations of each layer in the backward pass: less memory, up to "
        "a third more time.",
        bool,
        group="run",
    )
    precision: Precision | None = option(
        None,
        "Precision of matrix products (autocast); auto = bfloat16 where the hardware computes in "
        "it, else float32; float16 scales the loss, for GPUs without bfloat16.",
        str,
        choices=get_args(Precision),
        none="auto",
        group="run",
    )
    seed: int = option(
        TrainingSettings.seed,
        "Random seed of fresh weights, data order, masks and dropout.",
        low=0,
        high=2**63 - 1,
        group="optimisation",
    )
    log_every: int = option(
        TrainingSettings.log_every,
        "Number of steps between two lines of log.jsonl; 0 = only at the end.",
        low=0,
        group="output",
    )
    keep_snapshots: int = option(
        TrainingSettings.keep_snapshots,
        "Number of snapshots to keep; older ones are deleted.",
        low=2,
        group="run",
    )
    workers: int = option(
        TrainingSettings.workers,
        "Number of threads that prepare batches in the background; 0 = the training loop "
        "prepares them.",
        low=0,
        flags="--workers --num-workers",
        group="run",
    )
    on_nonfinite: OnNonfinite = option(
        TrainingSettings.on_nonfinite,
        "When the loss or gradient is not finite: end the run (raise), or skip the step.",
        str,
        choices=get_args(OnNonfinite),
        group="run",
    )
    max_skips: int = option(
        TrainingSettings.max_skips,
        "Maximum number of steps skipped in a row, with --on-nonfinite skip.",
        low=0,
        group="run",
    )
    on_save_error: OnSaveError = option(
        TrainingSettings.on_save_error,
        "When a snapshot cannot be written, but an older one exists: warn and continue, or end "
        "the run (raise).",
        str,
        choices=get_args(OnSaveError),
        group="run",
    )

    def same_in_the_loop(self) -> dict[str, Any]:
        """The fields that `TrainingSettings` has under the same name and with the same meaning."""
        own = {field.name for field in dataclasses.fields(self)}
        names = [field.name for field in dataclasses.fields(TrainingSettings)]
        return {name: getattr(self, name) for name in names if name in own and name not in DERIVED}

    def precision_on(self, device: torch.device) -> Precision:
        """The precision on this device."""
        from minilm.training.updates import best_precision

        return self.precision or best_precision(device)

    def checkpoint_gradients(self, model: PretrainedModel) -> None:
        """Lets a model recompute its activations if the settings say so."""
        if self.gradient_checkpointing:
            from minilm.training.memory import hand_back_freed_memory

            hand_back_freed_memory()
            model.gradient_checkpointing_enable()


@dataclass(frozen=True, kw_only=True)
class Recipe(LoopSettings, ABC):
    """What a training command runs: how long, and how to build model, data and loss.

    Either `steps` or `epochs` must be given.
    """

    command: ClassVar[str] = ""  # the command whose options the fields are

    steps: int | None = option(
        None,
        "Number of training steps (updates of the weights). Default: none; give --steps or "
        "--epochs.",
        low=1,
        group="optimisation",
    )
    epochs: int | None = option(
        None,
        "Number of passes over the training data. Default: none; give --steps or --epochs.",
        low=1,
        group="optimisation",
    )
    learning_rate: float = option(
        TrainingSettings.learning_rate,
        "Peak learning rate, reached at the end of the warm-up.",
        float,
        low=0,
        group="optimisation",
    )
    warmup: float = option(
        0.05,
        "Warm-up steps of the learning rate; below 1, the fraction of all steps.",
        float,
        low=0,
        group="optimisation",
    )
    evaluate_every: int | None = option(
        None,
        "Number of steps between evaluations; 0 = only at the end. Default: "
        f"{EVALUATIONS} evaluations in a run.",
        low=0,
        group="evaluation",
    )
    snapshot_every: int | None = option(
        None,
        "Number of steps between snapshots, from which an interrupted run resumes; 0 = only "
        f"at the end. Default: {SNAPSHOTS} snapshots in a run.",
        low=0,
        group="run",
    )

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.epochs is None):
            raise InputError("Give one of steps and epochs.")
        warn_of_no_learning(self.learning_rate)

    def training_settings(self, data: TrainingData, device: torch.device) -> TrainingSettings:
        """The settings of the loop for this data.

        Args:
            data: what an epoch consists of.
            device: the device to train on, which determines the precision.

        Raises:
            TrainingError: one of them is out of range.
        """
        steps = self.steps
        if steps is None:
            assert self.epochs is not None
            steps = data.count_steps(self.epochs)
        if not 0 <= self.warmup < float("inf"):
            raise InputError(f"warmup is {self.warmup}: expected a share or a number of steps.")

        def every(given: int | None, times: int) -> int:
            return -(-steps // times) if given is None else given

        return TrainingSettings(
            steps=steps,
            warmup=round(self.warmup * steps if self.warmup < 1 else self.warmup),
            evaluate_every=every(self.evaluate_every, EVALUATIONS),
            snapshot_every=every(self.snapshot_every, SNAPSHOTS),
            precision=self.precision_on(device),
            **self.same_in_the_loop(),
        )

    def prepare(
        self,
        output: str | os.PathLike[str] | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> Run:
        """Builds models, data and loss: everything before the first step.

        Args:
            output: the run's directory; if the run has begun there, what its snapshots replace is
                not computed again.
            say: receives messages.

        Raises:
            MinilmError: settings do not fit together; the message names them.
        """
        from minilm.blocks.initialisation import seeded

        with seeded(self.seed):
            run = self._build(output, say)
        return dataclasses.replace(
            run, command={"name": self.command, "options": given_options(self)}
        )

    @abstractmethod
    def _build(self, output: str | os.PathLike[str] | None, say: Callable[[str], None]) -> Run:
        """See `prepare`; all random numbers here come from the seed."""

    def train(
        self,
        output: str | os.PathLike[str],
        *,
        processes: Processes | None = None,
        allow_changes: bool = False,
        observers: Sequence[Observer] = (),
        clean: bool = False,
        say: Callable[[str], None] = lambda _: None,
    ) -> Result:
        """Starts or resumes training, as the command does.

        Args:
            output: directory of the run and, at the end, of the trained checkpoint.
            processes: those that take part; None = those that torchrun started, or only this one.
            allow_changes: resume a run that was started with other settings.
            observers: objects whose methods are called at every step, evaluation and snapshot; see
                `minilm.Observer`.
            clean: whether to remove the snapshots and best weights of the finished run, which take
                several times the space of the model; the log and the settings stay.
            say: receives messages.

        Raises:
            MinilmError: something is wrong with settings, models, corpus or output.
        """
        from minilm.training.distributed import join

        with join() if processes is None else nullcontext(processes) as joined:
            run = self.prepare(output, say)
            settings = self.training_settings(run.data, joined.device)
            return run.train(
                settings,
                output,
                processes=joined,
                allow_changes=allow_changes,
                observers=observers,
                clean=clean,
                say=say,
            )


@dataclass(frozen=True, kw_only=True)
class TextRecipe(Recipe):
    """A recipe that learns from a token store: what it reads of the store, and for how long.

    The fields are the options of `minilm pretrain` and `minilm distill`, whose help explains each
    of them; see also `minilm.CorpusSettings` and `minilm.TrainingSettings`. Either `steps` or
    `epochs` must be given.
    """

    # longest sequence in tokens unless the models have fewer positions or max_length is given
    usual_length: ClassVar[int] = 128

    corpus: str | os.PathLike[str] = option(
        dataclasses.MISSING, "Token store, made by `minilm tokenize`.", os.PathLike, group="data"
    )
    held_out: int = option(
        0,
        "Number of documents at the end of the store that are held out for evaluation; 0 = "
        "no evaluation.",
        low=0,
        group="evaluation",
    )
    max_length: int | None = option(
        None,
        "Maximum sequence length in tokens. Default: {usual_length}, or as many as the model has "
        "positions for.",
        low=1,
        group="data",
    )
    min_length: int = option(
        12,
        "Minimum sequence length in tokens; shorter sequences are left out.",
        low=1,
        group="data",
    )
    masking: MaskingName = option(
        "tokens",
        "How the masked tokens are chosen: any tokens, whole words, n-grams of words (ALBERT), "
        "or rarer tokens more often (DistilBERT).",
        str,
        choices=get_args(MaskingName),
        group="data",
    )
    max_ngram: int = option(
        3, "Longest n-gram in words, with --masking ngrams.", low=1, group="data"
    )
    mask_probability: float = option(
        0.15, "Mask ratio: fraction of tokens to predict.", float, low=0, group="data"
    )
    final_mask_probability: float | None = option(
        None,
        "Mask ratio at the end of the run; it changes in a straight line from --mask-probability, "
        "for example from 0.3 to 0.15. Default: it stays the same.",
        float,
        above=0,
        below=1,
        group="data",
    )
    mask_replace_probability: float = option(
        0.8,
        "Fraction of the tokens to predict that the model sees as [MASK]; half of the others "
        "become random tokens and half stay as they are. 1 = always [MASK].",
        float,
        low=0,
        high=1,
        group="data",
    )
    max_predictions: int | None = option(
        None,
        "Maximum number of predicted tokens in a sequence. Default: no limit.",
        low=1,
        group="data",
    )
    tokens_per_step: int = option(
        8192,
        "Batch size of a step in tokens, over all processes and micro-batches.",
        low=1,
        group="optimisation",
    )
    evaluation_tokens: int | None = option(
        65536, "Maximum number of held-out tokens to evaluate on.", low=1, group="evaluation"
    )

    def corpus_settings(self, *models: PretrainedModel) -> CorpusSettings:
        """The part of the store that is read.

        Args:
            *models: the models that read it; no sequence is longer than any of them can take.
        """
        from minilm.recipes.corpus import CorpusSettings

        positions = [model.config.max_position_embeddings for model in models]
        return CorpusSettings(
            store=self.corpus,
            held_out=self.held_out,
            max_length=self.max_length or min(self.usual_length, *positions),
            min_length=self.min_length,
            masking=self.masking,
            probability=self.mask_probability,
            mask_replace_probability=self.mask_replace_probability,
            max_predictions=self.max_predictions,
            max_ngram=self.max_ngram,
            tokens_per_step=self.tokens_per_step,
            tokens_per_evaluation=self.evaluation_tokens,
            seed=self.seed,
            final_probability=self.final_mask_probability,
            steps=None if self.final_mask_probability is None else self.steps,
            epochs=None if self.final_mask_probability is None else self.epochs,
        )


def given_options(recipe: LoopSettings) -> dict[str, Any]:
    """The settings that differ from their defaults, as JSON values by the names of their options.

    Args:
        recipe: a dataclass whose fields were made by `option`.
    """
    found: dict[str, Any] = {}
    for field in dataclasses.fields(recipe):
        value = getattr(recipe, field.name)
        if "help" not in field.metadata or value == field.default:
            continue
        flags = field.metadata["flags"] or f"--{field.name.replace('_', '-')}"
        found[re.split("[ /]", flags)[0].removeprefix("--")] = as_json(value)
    return found


def as_json(value: Any) -> Any:
    """The value of an option in JSON: paths are strings, sequences are lists."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return list(value) if isinstance(value, (tuple, list)) else value


def warn_of_no_learning(rate: float | None) -> None:
    """Warns of a rate at which nothing is learned."""
    if rate == 0:
        warnings.warn(
            f"{argument('learning_rate')} is 0: the weights stay as they are.", stacklevel=4
        )
