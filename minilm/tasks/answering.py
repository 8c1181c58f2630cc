"""Extractive question answering: the part of a text that answers a question, or none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from minilm.data.records.base import RecordError, Skips
from minilm.errors import InputError, argument
from minilm.files.arrays import Flags, Floats, Integers
from minilm.metrics.answers import squad_v1, squad_v2
from minilm.models.pretrained import PretrainedModel
from minilm.tasks.column_names import CONTEXTS, QUESTIONS
from minilm.tasks.fields import checked, text_of
from minilm.tasks.layouts import Field, Layout
from minilm.tasks.task import (
    Prediction,
    Sample,
    Scores,
    Task,
    TaskBatch,
    Term,
    as_rows,
    run_model,
    softmax,
)
from minilm.tasks.thresholds import best_threshold
from minilm.tasks.windows import Window, cut, max_context_window
from minilm.tasks.words import whole_letters
from minilm.tokenization.tokenizer import Tokenizer

NO_ANSWER = (0, 0)  # start and end at [CLS]


@dataclass(frozen=True)
class QuestionExample:
    """A question about a text.

    Attributes:
        id: the question's id; None = it has none.
        question, context: the texts.
        answers: (text, start in the context) of each right answer; empty = it has no answer; None =
            not known.
    """

    id: Any
    question: str
    context: str
    answers: tuple[tuple[str, int], ...] | None = None


@dataclass(frozen=True)
class ContextWindow:
    """Where the context lies in a row.

    Attributes:
        first: position of its first token in the row.
        offsets: (n, 2) start and end, in characters of the context, of each of its tokens.
        best_here: (n,) whether no other window gives the token more context.
        question_cut: whether the question was longer than `max_query`.
    """

    first: int
    offsets: Integers
    best_here: Flags
    question_cut: bool


class QuestionAnswering(Task[QuestionExample]):
    """The span of a context that answers a question.

    A record has "id", "question", "context" and "answers": a list of {"text", "answer_start"}, or
    the same as two lists, as in data sets from the hub; an empty list = no answer. A long context
    is cut into windows; in windows without the answer, [CLS] is the right one.

    Options of `learn`: `doc_stride`, `max_query`, `n_best`, `max_answer` and `null_threshold`, see
    below. Fine-tuning sets `null_threshold` to what is best for the dev records unless it is given.

    Attributes:
        doc_stride: number of tokens between the starts of successive windows.
        max_query: maximum length of a question in tokens; longer ones are cut.
        n_best: number of candidate answers that are considered and returned.
        max_answer: maximum length of an answer in tokens.
        unanswerable: whether training had questions without an answer; otherwise an answer is
            always given.
        null_threshold: "no answer" is given where its score is higher than that of the best
            answer by more than this.

    References: Devlin et al. 2019, sections 4.2 and 4.3; run_squad.py of the released code.
    """

    name: ClassVar[str] = "answering"
    head: ClassVar[str] = "ForQuestionAnswering"
    metric: str = "f1"
    parts: ClassVar[tuple[str, ...]] = ("start", "end")
    _numbers: ClassVar[tuple[str, ...]] = ("doc_stride", "max_query", "n_best", "max_answer")
    option_names: ClassVar[tuple[str, ...]] = (*_numbers, "null_threshold")
    threshold_names: ClassVar[Mapping[str, tuple[float, float]]] = {"null_threshold": (-1e9, 1e9)}
    best_score: ClassVar[float] = 100.0  # as SQuAD's scripts count
    fields: ClassVar[tuple[Field, ...]] = (
        Field("id", (), "id"),
        Field("question", QUESTIONS, "text_column", kind="text"),
        Field("context", CONTEXTS, "pair_column", kind="text"),
        Field("answers", (), "label_column", labelled=True),
    )
    doc_stride: int = 128
    max_query: int = 64
    n_best: int = 20
    max_answer: int = 30
    unanswerable: bool = True
    null_threshold: float = 0.0

    @classmethod
    def learn(
        cls, records: Sequence[Mapping[str, Any]], max_length: int, options: Mapping[str, Any]
    ) -> Self:
        layouts = cls.layouts_to_learn(records, options)
        task = cls((), max_length).name_columns(options).read_from(layouts)
        task._set(options)
        task.tune_thresholds = options.get("null_threshold") is None
        task.unanswerable = False
        for record in records:
            with suppress(RecordError):  # `examples` decides what to do with it
                task.unanswerable |= _answers(layouts.of(record), record) == ()
        return task

    @classmethod
    def restore(cls, labels: Sequence[str], settings: Mapping[str, Any]) -> Self:
        task = cls((), settings["max_length"])
        task._set(settings)
        return task

    def _set(self, options: Mapping[str, Any]) -> None:
        for name in self._numbers:
            value = options.get(name, getattr(self, name))
            if not isinstance(value, int) or value < 1:
                raise InputError(f"{name} is {value!r}: expected a whole number from 1.")
            setattr(self, name, value)
        self.unanswerable = bool(options.get("unanswerable", self.unanswerable))
        self.set_thresholds(options)

    def settings(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in (*self._numbers, "unanswerable")}
        return {**super().settings(), **own}

    def config(self) -> dict[str, Any]:
        # start and end: transformers makes a head of as many outputs as there are labels
        return {"id2label": {0: "LABEL_0", 1: "LABEL_1"}}

    def examples(
        self, records: Sequence[Mapping[str, Any]], skips: Skips, *, labelled: bool
    ) -> list[QuestionExample]:
        found = []
        layouts = self.layouts(records, labelled=labelled)
        for _, _, record, checking in checked(records, skips):
            with checking:
                layout = layouts.of(record)
                question = text_of(layout.need(record, "question"), "question")
                context = text_of(layout.need(record, "context"), "context")
                answers = None
                if labelled:
                    answers = _answers(layout, record)
                    if answers is None:
                        given = layout.need(record, "answers")
                        raise RecordError(
                            f"answers is {given!r:.80}, expected a list of "
                            '{"text", "answer_start"}.',
                            reason="no list of answers",
                        )
                    _check(answers, context)
                id_ = layout.get(record, "id")
                found.append(QuestionExample(id_, question, context, answers))
        self.note(*layouts.describe())
        return found

    def samples(self, examples: Sequence[QuestionExample], tokenizer: Tokenizer) -> list[Sample]:
        if not examples:
            return []
        questions = tokenizer.pieces([example.question for example in examples])
        texts = sorted({example.context for example in examples})
        contexts = dict(zip(texts, tokenizer.pieces(texts), strict=True))
        windows_of: dict[tuple[str, int], Any] = {}
        samples = []
        for number, (example, question) in enumerate(zip(examples, questions, strict=True)):
            query = question.ids[: self.max_query]
            context = contexts[example.context]
            room = self.max_length - len(query) - tokenizer.num_special_tokens(pair=True)
            if room < 1:
                raise InputError(
                    f"{argument('max_length')} is {self.max_length}: a question of {len(query)} "
                    "tokens leaves no room for its context. Take a larger "
                    f"{argument('max_length')} or a smaller {argument('max_query')}."
                )
            key = (example.context, room)
            if key not in windows_of:
                windows = cut(len(context.ids), room, min(self.doc_stride, room))
                windows_of[key] = (
                    windows,
                    np.array(max_context_window(windows, len(context.ids)), np.int64),
                )
            windows, window_of = windows_of[key]
            answer = _span(example.answers, context.offsets)
            for part, window in enumerate(windows):
                row = tokenizer.join(query, context.ids[window.start : window.end])
                location = ContextWindow(
                    row.starts[1],
                    context.offsets[window.start : window.end],
                    window_of[window.start : window.end] == part,
                    len(query) < len(question.ids),
                )
                label = None
                if example.answers is not None:
                    label = _label(answer, window, row.starts[1])
                samples.append(Sample(number, (row,), label, location))
        return samples

    def is_truncated(self, sample: Sample) -> bool:
        return bool(sample.decode_info.question_cut)

    @property
    def limit(self) -> int:
        return self.max_query

    def labels_of(self, samples: Sequence[Sample]) -> Tensor:
        return torch.tensor([sample.label for sample in samples])

    def without_label(self, sample: Sample) -> tuple[int, int]:
        return NO_ANSWER

    def logits(self, model: PretrainedModel, batch: TaskBatch) -> Tensor:
        names = ("start_logits", "end_logits")
        return torch.stack(run_model(model, batch, batch.lengths, names), dim=-1)  # (T, 2)

    def counts(self, batch: TaskBatch) -> dict[str, int]:
        return dict.fromkeys(self.parts, batch.count_known())

    def terms(self, logits: Tensor, batch: TaskBatch) -> list[Term]:
        start, end = as_rows(logits.float(), batch.lengths).unbind(-1)  # (B, S) each
        assert batch.labels is not None
        return [
            Term("start", "classes", start, batch.labels[:, 0], 0.5, batch.known),
            Term("end", "classes", end, batch.labels[:, 1], 0.5, batch.known),
        ]

    def outputs(self, logits: Tensor, batch: TaskBatch) -> list[Floats]:
        rows = torch.split(logits.float().cpu(), batch.lengths.tolist())
        return [row.numpy() for row in rows]

    def decode(
        self,
        examples: Sequence[QuestionExample],
        samples: Sequence[Sample],
        outputs: Sequence[Floats],
    ) -> list[Prediction]:
        candidates: list[dict[tuple[int, int], float]] = [{} for _ in examples]  # scores by place
        null = [np.inf] * len(examples)
        for sample, output in zip(samples, outputs, strict=True):
            null[sample.example] = min(null[sample.example], float(output[0].sum()))
            found = candidates[sample.example]
            context = examples[sample.example].context
            for score, *place in self._candidates(sample.decode_info, output):
                start, end = whole_letters(context, *place)
                found[start, end] = max(score, found.get((start, end), -np.inf))
        ranked = [
            sorted(((score, *place) for place, score in found.items()), reverse=True)
            for found in candidates
        ]
        return [self._prediction(*each) for each in zip(examples, ranked, null, strict=True)]

    def _candidates(
        self, window: ContextWindow, output: Floats
    ) -> Iterator[tuple[float, int, int]]:
        """Score, first and last character's end of the most likely answers of a window."""
        scores = output[window.first : window.first + len(window.offsets)]  # (n, 2)
        # tokens that stand for no character, such as a lone space mark, begin and end nothing
        real = window.offsets[:, 0] < window.offsets[:, 1]
        starts = np.flatnonzero(real & window.best_here)
        ends = np.flatnonzero(real)
        starts = starts[np.argsort(-scores[starts, 0], kind="stable")[: self.n_best]]
        ends = ends[np.argsort(-scores[ends, 1], kind="stable")[: self.n_best]]
        for start in starts:
            for end in ends:
                if start <= end < start + self.max_answer:
                    yield (
                        float(scores[start, 0] + scores[end, 1]),
                        int(window.offsets[start, 0]),
                        int(window.offsets[end, 1]),
                    )

    def _prediction(
        self, example: QuestionExample, found: list[tuple[float, int, int]], null: float
    ) -> Prediction:
        found = found[: self.n_best]
        scored = [score for score, _, _ in found]
        if self.unanswerable or not found:
            scored.append(null)
        probabilities = softmax(np.array(scored)).tolist()
        best = [
            {
                "answer": example.context[start:end],
                "start": start,
                "end": end,
                "confidence": confidence,
            }
            for (_, start, end), confidence in zip(found, probabilities, strict=False)
        ]
        no_answer = null - found[0][0] if found else np.inf
        none = not found or (self.unanswerable and no_answer > self.null_threshold)
        nothing = {"answer": "", "start": None, "end": None, "confidence": probabilities[-1]}
        return {
            **({} if example.id is None else {"id": example.id}),
            "question": example.question,
            **(nothing if none else best[0]),
            "no_answer_score": float(min(no_answer, 1e9)),
            "n_best": best,
        }

    def scores(
        self, examples: Sequence[QuestionExample], predictions: Sequence[Prediction]
    ) -> Scores:
        golds = _golds(examples)
        found = {str(n): prediction["answer"] for n, prediction in enumerate(predictions)}
        if all(golds.values()):
            result = squad_v1(found, golds)
            return {"exact": result["exact_match"], "f1": result["f1"]}
        result = squad_v2(found, golds)
        return {name: value for name, value in result.items() if not name.endswith("total")}

    def tune(self, examples: Sequence[QuestionExample], predictions: Sequence[Prediction]) -> Self:
        """The task with the null threshold that gives these predictions the highest F1."""
        if not self.unanswerable or all(example.answers for example in examples):
            return self
        margins = np.array([prediction["no_answer_score"] for prediction in predictions])
        gains = np.array(
            [
                squad_v2({n: _best(prediction)}, {n: gold})["f1"]
                - squad_v2({n: ""}, {n: gold})["f1"]
                for (n, gold), prediction in zip(_golds(examples).items(), predictions, strict=True)
            ]
        )
        tuned = copy(self)
        tuned.null_threshold = best_threshold(margins, gains)
        return tuned


def _golds(examples: Sequence[QuestionExample]) -> dict[str, list[str]]:
    """The right answers of every example, by its number: ids may occur twice."""
    return {str(n): [text for text, _ in e.answers or ()] for n, e in enumerate(examples)}


def _best(prediction: Prediction) -> str:
    """The best answer, were one to be given."""
    return prediction["n_best"][0]["answer"] if prediction["n_best"] else ""


def _answers(layout: Layout, record: Mapping[str, Any]) -> tuple[tuple[str, int], ...] | None:
    """Texts and starts of the answers; None if they are not in a known form."""
    answers = layout.get(record, "answers")
    if isinstance(answers, Mapping) and isinstance(answers.get("text"), list | tuple):
        starts = answers.get("answer_start")
        if not isinstance(starts, list | tuple) or len(starts) != len(answers["text"]):
            return None
        answers = [
            {"text": text, "answer_start": start}
            for text, start in zip(answers["text"], starts, strict=True)
        ]
    if not isinstance(answers, list | tuple):
        return None
    found = []
    for answer in answers:
        match answer:
            case {"text": str(text), "answer_start": int(start)}:
                found.append((text, start))
            case _:
                return None
    return tuple(found)


def _check(answers: Sequence[tuple[str, int]], context: str) -> None:
    """Raise RecordError unless every answer is where it says it is."""
    for text, start in answers:
        if not text.strip():
            raise RecordError("An answer is empty.", reason="empty answer")
        if start < 0 or context[start : start + len(text)] != text:
            place = context.find(text)
            where = f"it is at {place}" if place >= 0 else "it is nowhere in the context"
            raise RecordError(
                f"The answer {text!r:.60} is not at its answer_start {start}: {where}.",
                "Mend the offset, or skip the record.",
                reason="answer not at its offset",
            )


def _span(answers: Sequence[tuple[str, int]] | None, offsets: Integers) -> tuple[int, int] | None:
    """The first and the last token of the first answer; None if it has none."""
    if not answers:
        return None
    text, begin = answers[0]
    inside = np.flatnonzero((offsets[:, 1] > begin) & (offsets[:, 0] < begin + len(text)))
    return (int(inside[0]), int(inside[-1])) if len(inside) else None


def _label(answer: tuple[int, int] | None, window: Window, first: int) -> tuple[int, int]:
    """Start and end of an answer within a row; [CLS] if it is not wholly in the window.

    Args:
        answer: its first and last token in the context.
        window: the part of the context that the row has.
        first: where in the row the window begins.
    """
    if answer is None or answer[0] < window.start or answer[1] >= window.end:
        return NO_ANSWER
    return first + answer[0] - window.start, first + answer[1] - window.start
