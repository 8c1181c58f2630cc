"""Using a fine-tuned model: predictions for records, and scores where the answers are known."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from tqdm.auto import tqdm

from minilm.checkpoints.hub import resolve
from minilm.data.records.base import Policy, RecordError, Records, Skips
from minilm.data.records.frames import as_records
from minilm.errors import CheckpointError, DataError, InputError, setting
from minilm.files.arrays import Floats, Integers
from minilm.files.atomic import replace_files
from minilm.files.file_names import TASK
from minilm.files.json_file import json_bytes, read_json
from minilm.files.progress import DELAY, counted, cut_message
from minilm.loader import check_vocabulary, load_finetuned
from minilm.models.early_exit import EarlyExit
from minilm.models.pretrained import PretrainedModel
from minilm.tasks.batches import batches
from minilm.tasks.catalogue import task_of
from minilm.tasks.exits import load_exits, rule_of
from minilm.tasks.task import Prediction, Sample, Scores, Task, run_model
from minilm.tokenization.tokenizer import Tokenizer

CHUNK = 1024  # records that are read, sorted and packed together
FIRST_CHUNK = 16  # the first answers should not have to wait for so many
TOKENS_PER_BATCH = 4096


@dataclass(frozen=True)
class Input:
    """An input to predict for.

    Attributes:
        place: its origin, such as "texts.txt, line 3".
        record: the record, or why it could not be read; None = nothing, as in a blank line, which
            keeps its place but is not an error.
    """

    place: str
    record: Mapping[str, Any] | RecordError | None


def _check_texts(texts: object) -> None:
    """Raises InputError for anything but a list of strings."""
    if not isinstance(texts, Sequence) or isinstance(texts, bytes):
        raise InputError(
            f"A {type(texts).__name__} is not a text. For many texts give a list of strings; for "
            "records of a data frame or data set there is predict(records)."
        )
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputError(
                f"Item {number} is a {type(text).__name__}, expected a text. For records there is "
                "predict(records)."
            )


class Predictor:
    """A fine-tuned model with its tokenizer and its task.

    Args:
        model: the model with the task's head.
        tokenizer: the model's tokenizer.
        task: see `minilm.tasks`.
        early_exit: the same model with exits, and the rule by which texts leave; every prediction
            then has "applications", the number of layers its text went through. None = all layers.

    Raises:
        InputError: the tokenizer has more tokens than the model.

    Example:
        >>> predictor = minilm.Predictor.from_pretrained("spam-filter")
        >>> predictor("Free entry in a weekly competition!")["label"]
        'spam'
    """

    def __init__(
        self,
        model: PretrainedModel,
        tokenizer: Tokenizer,
        task: Task[Any],
        *,
        early_exit: EarlyExit | None = None,
    ) -> None:
        check_vocabulary(model.config, tokenizer)
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.task = task
        self.early_exit = early_exit

    @classmethod
    def from_pretrained(
        cls,
        path_or_repo: str | os.PathLike[str],
        *,
        dtype: torch.dtype | str | None = None,
        device: torch.device | str | None = None,
        exit_threshold: float | None = None,
        exit_patience: int | None = None,
        exit_tolerance: float | None = None,
    ) -> Predictor:
        """Loads a checkpoint made by `minilm.finetune`, or another one with a head for a task.

        Args:
            path_or_repo: a directory (the network is not used) or a hub name.
            dtype: dtype of the parameters; None = float32, "auto" = as stored.
            device: the device to run the model on.
            exit_threshold, exit_patience, exit_tolerance: when a text leaves the layers early, see
                `minilm.ExitRule`; only for a checkpoint that was fine-tuned with exits.

        Raises:
            MinilmError: a file is missing, damaged or unsupported; the head is missing or
                incomplete; or exits are asked for and there are none.
        """
        rule = rule_of(exit_threshold, exit_patience, exit_tolerance)
        directory = resolve(path_or_repo)
        model = load_finetuned(directory, dtype=dtype, device=device)
        task = task_of(directory, model)
        early_exit = None
        if rule is not None:
            early_exit = EarlyExit(model, load_exits(directory, model, task), rule)
        return cls(model, Tokenizer.from_pretrained(directory), task, early_exit=early_exit)

    @overload
    def __call__(  # type: ignore[overload-overlap]  # a str is a sequence of str, too
        self, text: str, pair: str | None = None
    ) -> Prediction: ...

    @overload
    def __call__(
        self, text: Sequence[str], pair: str | Sequence[str] | None = None
    ) -> list[Prediction]: ...

    def __call__(
        self, text: str | Sequence[str], pair: str | Sequence[str] | None = None
    ) -> Prediction | list[Prediction]:
        """The prediction for one text or pair of texts, or those for several.

        Args:
            text: the text to classify or tag, or the question to answer; or a list of N of them.
            pair: the second text; for a question, the text with the answer. For N texts, a list of
                N second texts or one for all.

        Returns:
            A prediction; for a list of texts, a list of predictions in the same order.

        Raises:
            InputError: the task needs more than texts or takes no pair, or the numbers of texts and
                second texts differ.
            DataError: a text is empty.
        """
        if isinstance(text, str) and (pair is None or isinstance(pair, str)):
            return self.predict([self._record(text, pair)])[0]
        texts = [text] if isinstance(text, str) else text
        _check_texts(texts)
        if pair is None or isinstance(pair, str):
            return self.predict([self._record(each, pair) for each in texts])
        _check_texts(pair)
        if isinstance(text, str) or len(pair) != len(texts):
            raise InputError(
                f"There are {counted(len(texts), 'text')} and {counted(len(pair), 'second text')}: "
                "expected as many, or one second text for all."
            )
        return self.predict(
            [self._record(each, other) for each, other in zip(texts, pair, strict=True)]
        )

    def _record(self, text: str, pair: str | None) -> dict[str, Any]:
        """One text or pair as a record of the task."""
        record: dict[str, Any]
        if self.task.name == "answering":
            record = {"question": text, "context": pair}
        elif self.task.name == "choice":
            raise InputError("Multiple choice needs choices: use predict([{...}]).")
        elif pair is not None and self.task.name in ("tagging", "utterances"):
            raise InputError(f"{self.task.name} takes one text, not a pair.")
        elif pair is None and self.task.texts == (2,):
            raise InputError(
                "The model was trained on pairs of texts: give the second one, too "
                f"({setting('pair')})."
            )
        else:
            record = {"text": text} if pair is None else {"text": text, "text_pair": pair}
        return record

    def predict(
        self, records: Iterable[Mapping[str, Any]], *, skips: Skips | None = None
    ) -> list[Prediction]:
        """Predictions for records, in their order.

        The prediction of a text that was too long and so was cut has "truncated": True, and a
        warning counts them.

        Args:
            records: records of the task; labels are not needed.
            skips: what to do with bad records; None = they are errors. Skipped records have no
                prediction.

        Raises:
            DataError: a bad record.
        """
        return list(self.predict_stream(records, skips=skips))

    def predict_stream(
        self, records: Iterable[Mapping[str, Any]], *, skips: Skips | None = None
    ) -> Iterator[Prediction]:
        """Like `predict`, a thousand records at a time, without holding all of them."""
        skips = skips or Skips()
        cuts = _Cuts(self.task)
        for chunk in _chunks(records):
            if not isinstance(records, Records):  # whose reader has counted them
                skips.total += len(chunk)
            examples = self.task.examples(chunk, skips, labelled=False)
            self.task.take_notes()  # which are for whoever trains or evaluates
            yield from cuts.count(self._decode(examples))
        cuts.warn()

    def predict_each(
        self, records: Iterable[Mapping[str, Any]], policy: Policy = "raise"
    ) -> Iterator[tuple[Mapping[str, Any], Prediction]]:
        """Every record with its prediction.

        Args:
            records: as for `predict`.
            policy: "skip" = a bad record's prediction is {"error": what is wrong with it}.

        Raises:
            DataError: a bad record, unless it is skipped, after the predictions of those before it.
        """
        inputs = (
            Input(chunk.where(number), chunk[number])
            for chunk in _chunks(records)
            for number in range(len(chunk))
        )
        for item, prediction in self.predict_inputs(inputs, policy):
            assert isinstance(item.record, Mapping)
            yield item.record, prediction

    def predict_inputs(
        self, inputs: Iterable[Input], policy: Policy = "raise", *, chunk: int = CHUNK
    ) -> Iterator[tuple[Input, Prediction]]:
        """Every input with its prediction, as soon as there are any.

        The first few are predicted together, later ones up to `chunk` at a time.

        Args:
            inputs: records that say where they are from, or why they could not be read.
            policy: as for `predict_each`. An empty input always has an "error" as its prediction.
            chunk: largest number of inputs to read before they are predicted.

        Raises:
            DataError: as for `predict_each`.
        """
        rest, size, cuts = iter(inputs), min(FIRST_CHUNK, chunk), _Cuts(self.task)
        while part := list(islice(rest, size)):
            examples: list[Any] = []
            wrong: dict[int, DataError] = {}
            for number, item in enumerate(part):
                try:
                    examples += self._examples_of(item)
                except DataError as problem:
                    wrong[number] = problem
                    if policy == "raise":
                        break
            predictions = cuts.count(self._decode(examples))
            for number, item in enumerate(part):
                if item.record is None:
                    yield item, {"error": f"{item.place}: nothing is there."}
                elif number not in wrong:
                    yield item, next(predictions)
                elif policy == "raise":
                    cuts.warn()
                    raise wrong[number]
                else:
                    yield item, {"error": str(wrong[number])}
            size = min(4 * size, chunk)
        cuts.warn()

    def _examples_of(self, item: Input) -> list[Any]:
        if item.record is None:
            return []
        if isinstance(item.record, RecordError):
            raise DataError(f"{item.place}: {item.record}")
        source, _, place = item.place.rpartition(", ")
        one = Records([item.record], [place], source or "input")  # type: ignore[list-item]
        examples = list(self.task.examples(one, Skips(), labelled=False))
        self.task.take_notes()  # which are for whoever trains or evaluates
        return examples

    def evaluate(
        self,
        records: Sequence[Mapping[str, Any]],
        *,
        skips: Skips | None = None,
        progress: bool = False,
    ) -> Scores:
        """Scores on labelled records.

        Args:
            records: labelled records of the task.
            skips: what to do with bad records; None = they are errors.
            progress: whether to show a progress bar on stderr after two seconds.

        Returns:
            The task's scores; with early exit "mean_applications", the number of layers a text went
            through on average; "examples", their number; "truncated", the number of them that were
            cut at the maximum length; and, if there are any, "unknown_labels", the number of labels
            that training did not have, which are counted as wrong.

        Raises:
            DataError: a record is bad, or none is usable.
        """
        skips = skips or Skips()
        records = as_records(records, "records")
        examples = self.task.examples(records, skips, labelled=True)
        if not examples:
            raise InputError(f"There is nothing to evaluate on. {skips.summary()}")
        predictions = self._decode(examples, progress)
        scores = self.task.scores(examples, predictions)
        if self.early_exit is not None:
            scores["mean_applications"] = float(np.mean([p["applications"] for p in predictions]))
        truncated = sum("truncated" in prediction for prediction in predictions)
        unknown = self.task.unknown(examples).total()
        return {
            **scores,
            "examples": len(examples),
            "truncated": truncated,
            **({"unknown_labels": unknown} if unknown else {}),
        }

    def tune(
        self,
        records: Sequence[Mapping[str, Any]],
        *,
        skips: Skips | None = None,
        progress: bool = False,
    ) -> None:
        """Sets the task's thresholds to the best values for labelled records.

        Args:
            records, skips, progress: as for `evaluate`.

        Raises:
            InputError: the task has no threshold, or no record is usable.
            DataError: a bad record.
        """
        if not self.task.threshold_names or getattr(self.task, "out_of_scope", "none") is None:
            raise InputError(
                f"This model for {self.task.name} has no threshold: there is nothing to tune."
            )
        skips = skips or Skips()
        examples = self.task.examples(records, skips, labelled=True)
        if not examples:
            raise InputError(f"There is nothing to tune thresholds on. {skips.summary()}")
        samples = self.task.samples(examples, self.tokenizer)
        likeliest = self.task.without_thresholds()
        found = likeliest.decode(examples, samples, self.outputs(samples, progress))
        self.task = self.task.tune(examples, found)

    def save_thresholds(self, directory: str | os.PathLike[str]) -> None:
        """Stores the task's thresholds with a checkpoint, for everyone who loads it.

        Args:
            directory: directory of the checkpoint.

        Raises:
            CheckpointError: its task.json is damaged, or cannot be written.
        """
        path = Path(directory) / TASK
        stored = {"task": self.task.name, **self.task.settings()}
        if path.exists():
            stored = read_json(path, max_bytes=1_000_000, error=CheckpointError)
        content = json_bytes({**stored, **self.task.thresholds})
        replace_files({path: lambda file: file.write_bytes(content)})

    @torch.inference_mode()
    def _decode(self, examples: Sequence[Any], progress: bool = False) -> list[Prediction]:
        samples = self.task.samples(examples, self.tokenizer)
        outputs, applications = self._run(samples, progress)
        predictions = self.task.decode(examples, samples, outputs)
        for sample, applied in zip(samples, applications.tolist(), strict=True):
            if self.early_exit is not None:
                predictions[sample.example]["applications"] = applied
            if self.task.is_truncated(sample):
                predictions[sample.example]["truncated"] = True
        return predictions

    @torch.inference_mode()
    def outputs(self, samples: Sequence[Sample], progress: bool = False) -> list[Floats]:
        """The outputs of the model for samples, in their order."""
        return self._run(samples, progress)[0]

    def _run(self, samples: Sequence[Sample], progress: bool) -> tuple[list[Floats], Integers]:
        """The same, and after how many applications of layers each sample left, 0 = at the end."""
        results: list[Floats] = [np.zeros(0, np.float32)] * len(samples)
        applications = np.zeros(len(samples), np.int64)
        tokens = sum(sample.tokens for sample in samples)
        with tqdm(total=tokens, unit=" tokens", delay=DELAY, disable=not progress) as bar:
            for batch in batches(self.task, samples, TOKENS_PER_BATCH):
                moved = batch.to(self.model.device)
                if self.early_exit is None:
                    logits = self.task.logits(self.model, moved)
                else:
                    names = ("logits", "applications")
                    logits, applied = run_model(self.early_exit, moved, moved.lengths, names)
                    applications[batch.samples] = applied.cpu().numpy()
                outputs = self.task.outputs(logits, moved)
                for number, output in zip(batch.samples, outputs, strict=True):
                    results[number] = output
                bar.update(batch.tokens)
        return results, applications


class _Cuts:
    """Counts predictions for cut texts, and warns once."""

    def __init__(self, task: Task[Any]) -> None:
        self._task = task
        self._seen = self._cut = 0

    def count(self, predictions: Sequence[Prediction]) -> Iterator[Prediction]:
        """Counts predictions and returns them."""
        self._seen += len(predictions)
        self._cut += sum("truncated" in prediction for prediction in predictions)
        return iter(predictions)

    def warn(self) -> None:
        """Warns once if anything was cut."""
        if self._cut:
            unit = "question" if self._task.name == "answering" else "record"
            message = cut_message(self._cut, self._seen, unit, self._task.limit)
            warnings.warn(message, stacklevel=3)


def _chunks(records: Iterable[Mapping[str, Any]]) -> Iterator[Records]:
    """A thousand records at a time, which know their numbers."""
    if isinstance(records, Records):
        for start in range(0, len(records), CHUNK):
            yield records[start : start + CHUNK]
        return
    if not isinstance(records, Iterator):
        records = as_records(records, "records")
    rest, start = iter(records), 0
    while chunk := list(islice(rest, CHUNK)):
        places = [f"record {start + number}" for number in range(len(chunk))]
        yield Records(chunk, places, "input")
        start += len(chunk)
