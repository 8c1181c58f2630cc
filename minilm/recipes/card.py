"""Model cards: the README.md beside the weights that says what they are and where they come from.

A card is text built from names and numbers that the caller has; nothing is measured here. Its head
is the YAML that the hub reads. Directories of the machine on which a model was made stay out of it:
of an absolute path only the last name is written.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path, PurePath
from typing import Any

import minilm
from minilm.checkpoints.hub import REPOSITORY, SHIPPED
from minilm.files.atomic import replace_files
from minilm.files.progress import counted
from minilm.metrics.score_table import score_named
from minilm.recipes.students import StudentRecipe

README = "README.md"
# ending of a class's name -> pipeline of the hub
PIPELINES: Mapping[str, str] = {
    "ForMaskedLM": "fill-mask",
    "ForPreTraining": "fill-mask",
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
    "ForMultipleChoice": "multiple-choice",
}
# scores -> the hub's names of metrics
_METRICS = {
    "accuracy": "accuracy",
    "f1": "f1",
    "macro_f1": "f1",
    "micro_f1": "f1",
    "precision": "precision",
    "recall": "recall",
    "matthews": "matthews_correlation",
    "pearson": "pearsonr",
    "spearman": "spearmanr",
    "mean_squared_error": "mse",
    "exact": "exact_match",
    "exact_match": "exact_match",
    "masked_accuracy": "accuracy",
}
# options whose values are files or directories of data -> what they are
DATA: Mapping[str, str] = {
    "train": "training records",
    "dev": "dev records, which chose the weights",
    "hold-out": "share of the training records held out for evaluation",
    "unlabelled": "records without labels, labelled by the teacher",
    "corpus": "token store",
    "held-out": "held-out documents at the end of the store",
    "texts": "texts, split into sentences",
}
_BASES = ("model", "from", "teacher")  # options that name a model to start from
_MARK = "<!-- card by minilm "
_MARKED = re.compile(rf"\n{_MARK}([0-9a-f]{{16}}): [^\n]*-->\n\Z")
# switches that are turned off by an option of another name -> that option
_OFF: Mapping[str, str] = dict(
    flags.replace("--", "").split("/")
    for setting in fields(StudentRecipe)
    if "/" in (flags := setting.metadata.get("flags", ""))
)


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a card says.

    Attributes:
        name: name of the model, the title of the card.
        summary: what the model is, in a sentence or two.
        use: lines of Python that load and run it.
        sections: titles and Markdown texts of what follows.
        library: the library, besides minilm, that loads it, as the hub names it.
        pipeline: the task it is for, as the hub names it; None = not stated.
        tags: further words to find it by.
        base_models: hub names of the models it was made from.
        metrics: names of scores that the card gives.
        head: lines of YAML to use instead of all these, from the card of another model.
    """

    name: str
    summary: str
    use: str
    sections: Mapping[str, str] = field(default_factory=dict)
    library: str = "transformers"
    pipeline: str | None = None
    tags: Sequence[str] = ()
    base_models: Sequence[str] = ()
    metrics: Sequence[str] = ()
    head: str | None = None

    def text(self) -> str:
        """The card as Markdown with a head in YAML."""
        parts = [
            f"---\n{self.head or self._yaml()}\n---\n",
            f"# {self.name}\n",
            f"{self.summary}\n",
            f"## Use\n\n```python\n{self.use.strip()}\n```\n",
            *(f"## {title}\n\n{text.strip()}\n" for title, text in self.sections.items()),
        ]
        return "\n".join(parts)

    def _yaml(self) -> str:
        names = dict.fromkeys(_METRICS[name] for name in self.metrics if name in _METRICS)
        values: dict[str, str | Sequence[str] | None] = {
            "library_name": self.library,
            "pipeline_tag": self.pipeline,
            "tags": ["minilm", *self.tags],
            "base_model": list(dict.fromkeys(self.base_models)),
            "metrics": list(names),
        }
        return "\n".join(_entry(name, value) for name, value in values.items() if value)


def write_card(
    directory: Path, card: Card, say: Callable[[str], None] = lambda _: None
) -> str | None:
    """Writes a card, unless the README.md that is there was written or edited by somebody else.

    Args:
        directory: directory of the model.
        card: its card.
        say: receives a message if an existing README.md was kept.

    Returns:
        The name of the file, or None if nothing was written.

    Raises:
        CheckpointError: it cannot be written.
    """
    path = directory / README
    if path.exists() and not is_untouched(path.read_text(encoding="utf-8", errors="replace")):
        say(f"{path} was edited by hand or written by another program, and is not replaced")
        return None
    text = card.text()
    mark = f"\n{_MARK}{_digest(text)}: a card that somebody edits is never written again -->\n"
    replace_files({path: lambda place: place.write_text(text + mark, encoding="utf-8")})
    return README


def is_untouched(text: str) -> bool:
    """Whether a README.md is a card exactly as `write_card` wrote it."""
    found = _MARKED.search(text)
    return found is not None and found[1] == _digest(text[: found.start()])


def run_card(
    name: str,
    *,
    class_name: str,
    parameters: int,
    command: Mapping[str, Any],
    steps: int,
    samples: int,
    scores: Mapping[str, Any],
    notes: Sequence[str] = (),
) -> Card:
    """The card of a model that a training run has made.

    Args:
        name: name of the model.
        class_name: name of its class, such as "BertForMaskedLM".
        parameters: number of its parameters.
        command: name and options of the command, as `Run.command` has them.
        steps: number of updates that led to the weights.
        samples: number of samples in an epoch.
        scores: its scores on held-out data; entries that are no numbers are left out.
        notes: more about the data, a sentence each.
    """
    options: Mapping[str, Any] = command["options"]
    kind = str(command["name"])
    numbers = {key: value for key, value in scores.items() if is_number(value)}
    data = [f"* {DATA[key]}: {shown_name(options[key])}" for key in DATA if key in options]
    data.append(f"* samples in an epoch: {samples:,}")
    data += [f"* {note}" for note in notes]
    sections = {
        "Data": "\n".join(data),
        "Training": f"{counted(steps, 'update')} with minilm {minilm.__version__}:\n\n"
        + _call(kind, options, name),
        "Figures": figures(numbers)
        if numbers
        else "Nothing was held out to evaluate the model on.",
        "Not stated": "Licence, language and intended use are not known to the program that wrote "
        "this card. Add `license:` and `language:` to its head, and what the model is for here.",
    }
    sentence = kind == "distill-sentences"
    return Card(
        name=name,
        summary=f"{class_name} with {parameters:,} parameters, made by `minilm {kind}`.",
        use=usage(name, class_name, sentence=sentence, task=kind == "finetune"),
        sections=sections,
        library="sentence-transformers" if sentence else "transformers",
        pipeline="sentence-similarity" if sentence else pipeline(class_name),
        tags=["distillation"] if "teacher" in options else [],
        base_models=[str(options[key]) for key in _BASES if is_hub_name(options.get(key))],
        metrics=list(numbers),
    )


def figures(scores: Mapping[str, float]) -> str:
    """A Markdown table of scores."""
    rows = ["| score on held-out data | value |", "|---|---:|"]
    for key, value in scores.items():
        score = score_named(key, scores)
        shown = f"{value:,}" if isinstance(value, int) else score.show(value)
        unit = " (nats)" if score.unit == "nats" else ""
        rows.append(f"| {score.title}{unit} | {shown} |")
    return "\n".join(rows)


def usage(name: str, class_name: str, *, sentence: bool = False, task: bool = False) -> str:
    """Lines of Python that load a model and show what it does.

    Args:
        name: name of its directory.
        class_name: name of its class.
        sentence: whether it is a sentence encoder.
        task: whether it was fine-tuned for a task, which task.json names.
    """
    quoted = json.dumps(name, ensure_ascii=False)
    if sentence:
        return (
            f"import minilm\n\nencoder = minilm.SentenceEncoder.from_pretrained({quoted})\n"
            'vectors = encoder.encode(["One text.", "Another text."])  # (2, width)'
        )
    if task or pipeline(class_name) not in (None, "fill-mask"):
        record = {
            "ForQuestionAnswering": '{"question": "Who?", "context": "Ada did."}',
            "ForMultipleChoice": '{"prompt": "She ate", "choices": ["an apple.", "a stone."]}',
        }
        given = next((text for end, text in record.items() if class_name.endswith(end)), None)
        call = 'predictor("A text.")' if given is None else f"predictor.predict([{given}])"
        return (
            f"import minilm\n\npredictor = minilm.Predictor.from_pretrained({quoted})\n"
            f"print({call})"
        )
    return (
        f"import minilm\n\nmodel = minilm.load({quoted})\n"
        f"tokenizer = minilm.Tokenizer.from_pretrained({quoted})\n"
        'output = model(**tokenizer("A text with a [MASK]."))'
    )


def pipeline(class_name: str) -> str | None:
    """The hub's pipeline tag for a class; None = it has none."""
    found = (name for ending, name in PIPELINES.items() if class_name.endswith(ending))
    return next(found, None)


def is_hub_name(name: object) -> bool:
    """Whether a model's name can be a hub name and is not a directory here."""
    text = str(name)
    return (
        isinstance(name, str)
        and REPOSITORY.fullmatch(text) is not None
        and not os.path.lexists(text)
        and text not in SHIPPED
    )


def is_number(value: object) -> bool:
    """Whether a score is one number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def command_line(command: str, options: Mapping[str, Any], *more: str) -> str:
    """A command on one line; absolute paths are shortened to their last name.

    Args:
        command: such as "pretrain".
        options: values by the names of options, as `Run.command` has them.
        *more: words to append.
    """
    words = ["minilm", command]
    for name, value in options.items():
        if value is None or (value is False and name not in _OFF):
            continue
        words.append(f"--{_OFF[name] if value is False else name}")
        if name in ("layers", "layer-map", "start") and isinstance(value, list):
            words.append(",".join(map(str, value)) + ("," if len(value) == 1 else ""))
        elif not isinstance(value, bool):
            words += [shown_name(each) for each in (value if isinstance(value, list) else [value])]
    return shlex.join([*words, *more])


def _call(command: str, options: Mapping[str, Any], name: str) -> str:
    """How the run was started: the command, or its settings if it was started from Python."""
    if command != "finetune" or "train" in options:
        return f"```text\n{command_line(command, options, '--output', name)}\n```"
    lines = [f"* {key}: {shown_name(value)}" for key, value in options.items() if value is not None]
    return "\n".join(["It was started from Python (`minilm.finetune`) with", "", *lines])


def without_mark(text: str) -> str:
    """The text of a card without the line by which `write_card` recognises it."""
    return _MARKED.sub("\n", text)


def shown_name(value: object) -> str:
    """A value of an option as a card shows it: of an absolute path only the last name."""
    if isinstance(value, list):
        return ", ".join(map(shown_name, value))
    text = str(value)
    return PurePath(text).name if os.path.isabs(os.path.expanduser(text)) else text


def _entry(name: str, value: str | Sequence[str]) -> str:
    if isinstance(value, str):
        return f"{name}: {_scalar(value)}"
    return "\n".join([f"{name}:", *(f"- {_scalar(each)}" for each in value)])


def _scalar(text: str) -> str:
    """A string of YAML: in the quotes of JSON, which YAML reads too, without control characters."""
    return json.dumps("".join(c for c in text if c.isprintable()), ensure_ascii=False)


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8"), digest_size=8).hexdigest()
