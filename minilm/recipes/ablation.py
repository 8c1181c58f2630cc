"""Ablations of distillation: the same run with single settings changed, each with several seeds.

    OUTPUT/without-kl/seed-0/     one run, with its model, as `minilm distill` leaves it
    OUTPUT/ablation.json          the figures of all runs, once all are finished

Every run resumes where it stopped, and one that is finished is not repeated, so the same call after
an interruption, or with more variants or seeds, does only what is left.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import itertools
import json
import math
import os
import re
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minilm.errors import InputError, MinilmError, TrainingError, argument
from minilm.files.atomic import replace_files
from minilm.files.json_file import json_bytes, without_nan
from minilm.files.progress import counted
from minilm.recipes.distillation import DistillationRecipe

if TYPE_CHECKING:
    from minilm.recipes.runs import Run
    from minilm.training.distributed import Processes
    from minilm.training.learner import TrainingBatch

RESULT = "ablation.json"
ACCURACY, LOSS = "masked_accuracy", "masked_loss"
_EXCLUSIVE = {"steps": "epochs", "epochs": "steps"}


@dataclass(frozen=True)
class Variant:
    """A recipe with some fields changed.

    Attributes:
        name: its name in the table and in the directory of its runs.
        changes: fields of the recipe, by name, with their values; none = the recipe as it is.
    """

    name: str
    changes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def directory(self) -> str:
        """The name in lower case, with hyphens for all but letters and digits."""
        return re.sub(r"[\W_]+", "-", self.name.lower()).strip("-")

    def of(self, base: DistillationRecipe, seed: int) -> DistillationRecipe:
        """The recipe of one run.

        Args:
            base: the recipe to change.
            seed: the seed of the run.
        """
        changes = dict(self.changes)
        for name, other in _EXCLUSIVE.items():
            if name in changes:  # only one of them may be given
                changes.setdefault(other, None)
        return dataclasses.replace(base, **{**changes, "seed": seed})


# What the paper's Table 4 takes away from the triple loss. Its changes of the GLUE macro-score, in
# this order: without KL -2.96, without cosine -1.46, without masked LM -0.31, random start -3.69.
DISTILBERT = (
    Variant("triple loss"),
    Variant("without KL", {"kl": 0.0}),
    Variant("without cosine", {"cosine": 0.0}),
    Variant("without masked LM", {"mlm": 0.0}),
    Variant("random start", {"from_scratch": True, "start": None}),
)

# weights of the terms that compare the student with its teacher
TEACHER_TERMS = (
    "kl",
    "cosine",
    "mse",
    "hidden_cosine",
    "hidden_mse",
    "attention",
    "relations",
    "pooled",
    "pooled_mse",
)


def _combined() -> Iterator[Variant]:
    """Sharing x hidden states x start of an ALBERT, and each sharing without a teacher.

    The weight of the hidden states is MiniALBERT's. Without a teacher, the weights are random and
    the masked words the only loss: what the shape learns by itself.
    """
    for sharing, inner_layers in (("1 shared layer", 1), ("3 shared layers", 3)):
        shape = {"student": "albert", "inner_layers": inner_layers}
        for weight in (3.0, 0.0):
            for start in ("interval", "average", "random"):
                losses = "hidden states, " if weight else ""
                changes = {**shape, "hidden_cosine": weight, "start": start}
                yield Variant(f"{sharing}, {losses}{start} start", changes)
        alone = {**dict.fromkeys(TEACHER_TERMS, 0.0), "from_scratch": True, "start": None}
        yield Variant(f"{sharing}, without a teacher", {**shape, **alone})


COMBINED = tuple(_combined())

TABLES: Mapping[str, Sequence[Variant]] = {"distilbert": DISTILBERT, "combined": COMBINED}


def grid(axes: Mapping[str, Sequence[Any]]) -> list[Variant]:
    """Every combination of some values of some fields, the last field changing fastest.

    Args:
        axes: fields of the recipe, by name, with the values of each.

    Example:
        >>> [variant.name for variant in grid({"kl": [5.0, 0.0], "cosine": [1.0, 0.0]})]
        ['kl=5 cosine=1', 'kl=5 cosine=0', 'kl=0 cosine=1', 'kl=0 cosine=0']
    """
    combinations = itertools.product(*axes.values())
    return [
        Variant(" ".join(f"{name}={_word(value)}" for name, value in changes.items()), changes)
        for changes in (dict(zip(axes, values, strict=True)) for values in combinations)
    ]


@dataclass(frozen=True)
class SeedResult:
    """How one run ended.

    Attributes:
        seed: the seed of the run.
        tokens: number of tokens seen in training.
        held_out: the scores of the last evaluation, or of the best one if the recipe selects it.
    """

    seed: int
    tokens: int
    held_out: Mapping[str, float]


@dataclass(frozen=True)
class VariantResult:
    """The runs of one variant.

    Attributes:
        variant: the variant.
        parameters: number of parameters of the student.
        runs: one for each seed.
    """

    variant: Variant
    parameters: int
    runs: Sequence[SeedResult]

    def scores(self, name: str) -> list[float]:
        """A held-out score of every run; NaN where a run has none of this name."""
        return [run.held_out.get(name, math.nan) for run in self.runs]

    @property
    def tokens(self) -> float:
        """Tokens seen in training, mean of the runs."""
        return statistics.fmean(run.tokens for run in self.runs)


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation (n - 1) of some values.

    Attributes:
        mean: mean of the values.
        deviation: their standard deviation; NaN for a single value.
    """

    mean: float
    deviation: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of at least one value; NaN and NaN if one of them is NaN."""
        if any(map(math.isnan, values)):
            return cls(math.nan, math.nan)
        deviation = statistics.stdev(values) if len(values) > 1 else math.nan
        return cls(statistics.fmean(values), deviation)


@dataclass(frozen=True)
class AblationResult:
    """The table of an ablation.

    Attributes:
        variants: those with a finished run, in the given order; the others are compared with the
            first.
        teacher: held-out scores of the first variant's teacher; empty if it has no masked-LM head.
        documents: number of documents that are held out.
        masked_tokens: number of tokens predicted in them.
        exit_code: what a command should exit with: 0, or 128 plus the number of the signal that
            ended it before all runs were finished.
    """

    variants: Sequence[VariantResult]
    teacher: Mapping[str, float]
    documents: int
    masked_tokens: int
    exit_code: int = 0

    @property
    def finished(self) -> bool:
        """Whether there are figures of all runs."""
        return self.exit_code == 0

    def spread(self, row: VariantResult, score: str) -> Spread:
        """A score of a variant over its seeds."""
        return Spread.of(row.scores(score))

    def difference(self, row: VariantResult, score: str) -> Spread:
        """By how much a score differs from the first variant's.

        The runs of one seed read the same text in the same order, and are compared with each other:
        the deviation is that of the differences.
        """
        first = {run.seed: run.held_out.get(score, math.nan) for run in self.variants[0].runs}
        pairs = zip(row.scores(score), row.runs, strict=True)
        return Spread.of([value - first[run.seed] for value, run in pairs])

    def of_teacher(self, row: VariantResult) -> float:
        """Mean masked accuracy, as a share of the teacher's; NaN without the teacher's."""
        accuracy = self.teacher.get(ACCURACY, math.nan)
        return self.spread(row, ACCURACY).mean / accuracy if accuracy else math.nan

    def to_json(self) -> dict[str, Any]:
        """All figures as JSON values; null for those that are not finite."""
        found = {
            "teacher": dict(self.teacher),
            "held_out_documents": self.documents,
            "masked_tokens": self.masked_tokens,
            "variants": [self._row(row) for row in self.variants],
        }
        values: dict[str, Any] = without_nan(found)
        return values

    def _row(self, row: VariantResult) -> dict[str, Any]:
        names = list(row.runs[0].held_out)
        return {
            "name": row.variant.name,
            "changes": {key: _json_value(value) for key, value in row.variant.changes.items()},
            "parameters": row.parameters,
            "tokens": row.tokens,
            "mean": {name: self.spread(row, name).mean for name in names},
            "deviation": {name: self.spread(row, name).deviation for name in names},
            "difference": {name: self.difference(row, name).mean for name in names},
            "difference_deviation": {name: self.difference(row, name).deviation for name in names},
            "of_teacher": self.of_teacher(row),
            "runs": [
                {"seed": run.seed, "tokens": run.tokens, "held_out": dict(run.held_out)}
                for run in row.runs
            ],
        }


@dataclass(frozen=True)
class Plan:
    """What the runs of one variant will be, known before any of them begins.

    Attributes:
        parameters: number of parameters of the student.
        teacher: held-out scores of the teacher.
        masked_tokens: number of masked tokens in the held-out text.
        held_out: a digest of that text with its masks.
    """

    parameters: int
    teacher: Mapping[str, float]
    masked_tokens: int
    held_out: str


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """A recipe, and what is changed in it one by one.

    Every variant is trained with the same seeds, so that its runs read the same text in the same
    order as those of the others, and evaluated on the same masked words of the held-out documents.

    A teacher cache holds the masks of one seed. So each seed has its own in the recipe's directory,
    `seed-0` and so on, which the variants share.

    Args:
        base: the recipe; it must hold out documents. Its seed is the first.
        variants: at least one; the others are compared with the first.
        seeds: number of seeds.

    Example:
        >>> recipe = DistillationRecipe(corpus="store", teacher="teacher", held_out=50, steps=300)
        >>> result = Ablation(base=recipe, variants=DISTILBERT, seeds=3).run("ablation")

    References: Sanh et al. 2019, section 5 and Table 4.
    """

    base: DistillationRecipe
    variants: Sequence[Variant]
    seeds: int = 3

    def __post_init__(self) -> None:
        if not self.variants:
            raise InputError("variants is empty: give at least one.")
        if self.seeds < 1:
            raise InputError(f"{argument('seeds')} is {self.seeds}: expected at least 1.")
        if not self.base.held_out:
            raise InputError(
                f"{argument('held_out')} is 0: nothing is left to compare the variants on. Hold "
                "out some documents."
            )
        taken: dict[str, str] = {}
        for variant in self.variants:
            check_fields(variant)
            if not variant.directory:
                raise InputError(
                    f"A variant is called {variant.name!r}: expected a name with a letter or digit."
                )
            if variant.directory in taken:
                raise InputError(
                    f"Two variants, {taken[variant.directory]!r} and {variant.name!r}, would be "
                    f"trained in the same directory, {variant.directory}. Give one of them another "
                    "name."
                )
            taken[variant.directory] = variant.name
            variant.of(self.base, self.base.seed)  # the recipe looks at its values

    @property
    def size(self) -> int:
        """Number of runs."""
        return len(self.variants) * self.seeds

    def run(
        self,
        output: str | os.PathLike[str],
        *,
        processes: Processes | None = None,
        allow_changes: bool = False,
        say: Callable[[str], None] = lambda _: None,
    ) -> AblationResult:
        """Trains what is not trained yet, seed by seed, and collects the scores.

        Before the first step of any run, all variants are built once, so that errors appear at
        once. The snapshots of a finished run are removed; its model and its log stay.

        Args:
            output: directory of the runs.
            processes: those that take part; None = those that torchrun started, or only this one.
            allow_changes: resume runs that were started with other settings.
            say: receives messages.

        Raises:
            MinilmError: something is wrong with settings, models, corpus or output; the message
                names the variant.
        """
        from minilm.training.distributed import join

        output = Path(output)
        with join() if processes is None else nullcontext(processes) as joined:
            plans = self._plans(joined, say)
            found: dict[str, list[SeedResult]] = {variant.name: [] for variant in self.variants}
            exit_code = 0
            for number, (seed, variant) in enumerate(self._order(), 1):
                say(f"run {number} of {self.size}: {variant.name}, seed {seed}")
                directory = output / variant.directory / f"seed-{seed}"
                with _named(variant, seed):
                    run = self._train(variant, seed, directory, joined, allow_changes, say)
                if isinstance(run, int):
                    exit_code = run
                    break
                found[variant.name].append(run)
            first = plans[self.variants[0].name]
            result = AblationResult(
                [
                    VariantResult(variant, plans[variant.name].parameters, found[variant.name])
                    for variant in self.variants
                    if found[variant.name]  # an ablation that was stopped has none of some
                ],
                first.teacher,
                self.base.held_out,
                first.masked_tokens,
                exit_code,
            )
            if result.finished and joined.first:
                content = json_bytes(result.to_json())
                replace_files({output / RESULT: lambda path: path.write_bytes(content)})
        return result

    def _plans(self, processes: Processes, say: Callable[[str], None]) -> dict[str, Plan]:
        """Builds every variant once, and checks that all are asked the same questions."""
        say(
            f"{counted(len(self.variants), 'variant')} x {counted(self.seeds, 'seed')} = "
            f"{counted(self.size, 'run')}; building each variant once"
        )
        plans: dict[str, Plan] = {}
        teacher: Mapping[str, float] | None = None
        for variant in self.variants:
            recipe = self._recipe(variant, self.base.seed)
            with _named(variant):
                run = recipe.prepare(None, say)
                recipe.training_settings(run.data, processes.device)
            if teacher is None:
                teacher = _teacher_scores(run, recipe, processes)
                if ACCURACY in teacher:
                    say(f"the teacher: {ACCURACY} {teacher[ACCURACY]:.4f}")
            masked, digest = _questions(run.held_out)
            plan = Plan(run.model.num_parameters(), teacher, masked, digest)
            first = plans.setdefault(self.variants[0].name, plan)
            if plan.held_out != first.held_out:
                raise InputError(
                    f"The variant {variant.name!r} is evaluated on other tokens than "
                    f"{self.variants[0].name!r}, so their scores say nothing about each other. "
                    "Change nothing that decides which text is held out and how it is cut."
                )
            plans[variant.name] = plan
        return plans

    def _recipe(self, variant: Variant, seed: int) -> DistillationRecipe:
        """The recipe of one run, with a teacher cache of its seed."""
        recipe = variant.of(self.base, seed)
        if recipe.teacher_cache is None:
            return recipe
        cache = Path(recipe.teacher_cache) / f"seed-{seed}"
        return dataclasses.replace(recipe, teacher_cache=cache)

    def _order(self) -> Iterator[tuple[int, Variant]]:
        """All variants with the first seed, then all with the next: a table early, then errors."""
        for seed in range(self.base.seed, self.base.seed + self.seeds):
            for variant in self.variants:
                yield seed, variant

    def _train(
        self,
        variant: Variant,
        seed: int,
        output: Path,
        processes: Processes,
        allow_changes: bool,
        say: Callable[[str], None],
    ) -> SeedResult | int:
        """What a run gave, or the exit code of one that was stopped."""
        result = self._recipe(variant, seed).train(
            output, processes=processes, allow_changes=allow_changes, clean=True, say=say
        )
        if not result.finished:
            return result.exit_code
        return SeedResult(seed, _tokens(output), dict(sorted(result.held_out.items())))


def check_fields(variant: Variant) -> None:
    """Checks the names of what a variant changes.

    Raises:
        InputError: there is no such field (the message suggests another name), or it may not be
            changed.
    """
    names = [field.name for field in dataclasses.fields(DistillationRecipe)]
    for name in variant.changes:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f" Did you mean {near[0]}?" if near else " See minilm distill --help."
            raise InputError(f"Variant {variant.name!r}: distillation has no setting {name}.{hint}")
        if name == "seed":
            raise InputError(
                f"Variant {variant.name!r} changes the seed, but every variant is trained with the "
                f"same ones: give their number ({argument('seeds')})."
            )


@contextmanager
def _named(variant: Variant, seed: int | None = None) -> Iterator[None]:
    """Says in an error which variant it belongs to."""
    try:
        yield
    except MinilmError as problem:
        which = variant.name + ("" if seed is None else f", seed {seed}")
        raise type(problem)(f"Variant {which}: {problem}") from problem


def _teacher_scores(
    run: Run, recipe: DistillationRecipe, processes: Processes
) -> Mapping[str, float]:
    """Masked words of the held-out text, predicted by the teacher as the students are asked to."""
    from minilm.learners.base import ModelLearner
    from minilm.learners.masked_lm import MaskedLMLearner
    from minilm.models.tasks import ForMaskedLM
    from minilm.training.updates import Updater

    teacher = run.learner.teacher if isinstance(run.learner, ModelLearner) else None
    if not isinstance(teacher, ForMaskedLM):
        return {}
    # nothing is trained, so the teacher need not have what a student has, such as shared layers
    settings = dataclasses.replace(
        recipe.training_settings(run.data, processes.device),
        optimiser="adamw",
        layer_decay=1.0,
        shared_weight_decay=None,
    )
    learner = MaskedLMLearner(teacher.to(processes.device))
    return Updater(learner, settings, processes).evaluate(run.held_out) or {}


def _questions(held_out: Sequence[TrainingBatch]) -> tuple[int, str]:
    """How many tokens of the held-out batches are to be predicted, and a digest of the batches."""
    from minilm.data.batches import TokenBatch
    from minilm.losses.elementary import IGNORED_LABEL

    masked, summary = 0, hashlib.blake2b(digest_size=16)
    for batch in held_out:
        assert isinstance(batch, TokenBatch)
        asked = int((batch.labels != IGNORED_LABEL).sum())
        if not asked:  # pairs, which only some variants may learn from
            continue
        masked += asked
        for start, stop in itertools.pairwise([0, *itertools.accumulate(batch.lengths.tolist())]):
            row = [batch.input_ids[start:stop].tolist(), batch.labels[start:stop].tolist()]
            summary.update(json.dumps(row).encode())
    return masked, summary.hexdigest()


def _tokens(output: Path) -> int:
    """Tokens that a run has seen in training, as its log says."""
    from minilm.training.log import LOG

    seen = 0
    try:
        with (output / LOG).open("rb") as file:
            for line in file:
                seen = json.loads(line).get("tokens", seen)
    except (OSError, ValueError, AttributeError) as problem:
        raise TrainingError(
            f"{output / LOG} is missing or damaged ({problem}). Remove {output} to repeat the run."
        ) from problem
    return seen


def _word(value: Any) -> str:
    """A value in the name of a variant."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return ",".join(map(_word, value))
    return str(value)


def _json_value(value: Any) -> Any:
    return os.fspath(value) if isinstance(value, os.PathLike) else value
