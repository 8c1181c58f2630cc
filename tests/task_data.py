"""Tiny checkpoints and records for the tests of tasks."""

from __future__ import annotations

import random
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import minilm
from minilm.learners.tasks import SoftTargets
from minilm.loader import CLASSES, STEMS
from minilm.models.pretrained import PretrainedModel
from minilm.recipes.finetuning import Finetuned, FinetuningSettings, finetune

Record = dict[str, Any]

COLOURS = ["red", "blue", "green"]
PLACES = ["paris", "rome", "oslo"]
FILLERS = ["the", "a", "is", "in", "and", "thing", "here", "very", "of", "it"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
# any word of letters and digits has tokens, most of them several
PIECES = [*string.ascii_lowercase, *string.digits]
VOCABULARY = [
    *SPECIAL,
    *COLOURS,
    *PLACES,
    *FILLERS,
    *PIECES,
    *("##" + piece for piece in PIECES),
    *string.punctuation,
]
SIZES: dict[str, Any] = {
    "vocab_size": len(VOCABULARY),
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
ARCHITECTURES = ("bert", "distilbert", "albert")


def tiny_model(architecture: str, head: str = "Model", seed: int = 0, **more: Any) -> Any:
    """A model with this head, every parameter drawn anew, norms near 1 so that it can learn."""
    stem = STEMS[architecture]
    sizes = {**SIZES, **({"embedding_size": 8} if architecture == "albert" else {}), **more}
    torch.manual_seed(seed)
    model = CLASSES[stem + head](getattr(minilm, f"{stem}Config")(**sizes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn_like(parameter)
            parameter.copy_(0.3 * noise if parameter.dim() > 1 else parameter + 0.1 * noise)
    return model


def save_start(
    directory: Path,
    architecture: str = "bert",
    head: str = "Model",
    vocabulary: Sequence[str] = VOCABULARY,
    **more: Any,
) -> Path:
    """A checkpoint with tokenizer to start from."""
    model: PretrainedModel = tiny_model(architecture, head, vocab_size=len(vocabulary), **more)
    model.save_pretrained(directory)
    (directory / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    return directory


def settings_of(**settings: Any) -> FinetuningSettings:
    """Float32, and a high learning rate: the models are tiny."""
    return FinetuningSettings(
        **{"precision": "float32", "learning_rate": 1e-2, "batch_size": 8, **settings}
    )


def quick(
    task: str, model: Path | None, train: Sequence[Record], output: Path, **more: Any
) -> Finetuned:
    """Two steps of fine-tuning; `settings` and the other arguments of `finetune` may differ."""
    arguments = ("dev", "teacher", "layers", "skips", "allow_changes", "say")
    rest = {name: value for name, value in more.items() if name not in arguments}
    if "teacher" in more:
        rest.setdefault("soft_targets", SoftTargets())
    return finetune(
        task,
        model,
        train,
        output,
        settings=settings_of(**{"epochs": 1, **rest}),
        **{name: more[name] for name in arguments if name in more},
    )


# --- records that a tiny model can learn ---


def colour_texts(count: int, seed: int = 1) -> list[Record]:
    """The label is the colour in the text."""
    draw = random.Random(seed)
    records = []
    for _ in range(count):
        words = draw.choices(FILLERS, k=draw.randint(2, 6))
        colour = draw.choice(COLOURS)
        words.insert(draw.randint(0, len(words)), colour)
        records.append({"text": " ".join(words), "label": colour})
    return records


def colour_pairs(count: int, seed: int = 1) -> list[Record]:
    """The label is the colour of the second text; the first has another one."""
    draw = random.Random(seed)
    found = []
    for first, second in zip(colour_texts(count, seed), colour_texts(count, seed + 1), strict=True):
        filler = draw.choice(FILLERS)
        found.append(
            {
                "text": f"{filler} {first['text']}",
                "text_pair": second["text"],
                "label": second["label"],
            }
        )
    return found


def colour_sets(count: int, seed: int = 1) -> list[Record]:
    """The labels are the colours in the text, perhaps none."""
    draw = random.Random(seed)
    records = []
    for _ in range(count):
        colours = draw.sample(COLOURS, k=draw.randint(0, 3))
        words = [*draw.choices(FILLERS, k=3), *colours]
        draw.shuffle(words)
        records.append({"text": " ".join(words), "labels": colours})
    return records


def red_counts(count: int, seed: int = 1) -> list[Record]:
    """The target is the share of the words that are red, times two, minus one."""
    draw = random.Random(seed)
    records = []
    for _ in range(count):
        words = draw.choices(["red", "blue"], k=6)
        records.append({"text": " ".join(words), "label": words.count("red") / 3 - 1})
    return records


def tagged_words(count: int, seed: int = 1) -> list[Record]:
    """Colours are COL, places are LOC, two places in a row are one LOC."""
    draw = random.Random(seed)
    records = []
    for _ in range(count):
        words: list[str] = []
        tags: list[str] = []
        for _ in range(draw.randint(2, 4)):
            kind = draw.randint(0, 2)
            words += [draw.choice(FILLERS), draw.choice((COLOURS, PLACES, FILLERS)[kind])]
            tags += ["O", ("B-COL", "B-LOC", "O")[kind]]
        records.append({"tokens": words, "tags": tags})
    return records


def utterances(count: int, seed: int = 1) -> list[Record]:
    """The intent is what the first word says."""
    intents = {"is": "ask", "the": "tell", "very": "other"}
    draw = random.Random(seed)
    records = []
    for row in tagged_words(count, seed):
        first = draw.choice(list(intents))
        records.append(
            {
                "tokens": [first, *row["tokens"]],
                "tags": ["O", *row["tags"]],
                "intent": intents[first],
            }
        )
    return records


def questions(count: int, seed: int = 1, unanswerable: bool = True) -> list[Record]:
    """Where: the place in the context, if there is one."""
    draw = random.Random(seed)
    records = []
    for number in range(count):
        words = draw.choices(FILLERS, k=draw.randint(4, 8))
        answers = []
        if not unanswerable or draw.random() < 0.7:
            place = draw.choice(PLACES)
            at = draw.randint(0, len(words))
            words.insert(at, place)
            answers = [{"text": place, "answer_start": len(" ".join([*words[:at], ""]))}]
        records.append(
            {
                "id": f"q{number}",
                "question": "it is in",
                "context": " ".join(words),
                "answers": answers,
            }
        )
    return records


def choices(count: int, seed: int = 1) -> list[Record]:
    """The right choice is the one with a colour; there are two to four."""
    draw = random.Random(seed)
    records = []
    for _ in range(count):
        endings = [" ".join(draw.choices(FILLERS, k=3)) for _ in range(draw.randint(2, 4))]
        label = draw.randrange(len(endings))
        endings[label] += " " + draw.choice(COLOURS)
        records.append({"prompt": "the thing is", "choices": endings, "label": label})
    return records


RECORDS: Mapping[str, Any] = {
    "classification": colour_texts,
    "multi-label": colour_sets,
    "regression": red_counts,
    "tagging": tagged_words,
    "answering": questions,
    "choice": choices,
    "utterances": utterances,
}
