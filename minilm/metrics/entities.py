"""Entities in tag sequences, found and counted as seqeval and conlleval do by default."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from minilm.errors import InputError
from minilm.metrics.classification import F1Scores

TAG = re.compile(r"O|([BIES])(?:-(.*))?", re.DOTALL)
NO_TYPE = "_"


@dataclass(frozen=True)
class Entity:
    """Consecutive words that name one thing.

    Attributes:
        type: the part of its tags after the dash; "_" if there is none.
        start: number of its first word, from 0.
        end: one more than the number of its last word (differs from seqeval, which gives the
            last word's).
    """

    type: str
    start: int
    end: int


@dataclass(frozen=True)
class EntityScores:
    """Scores of predicted entities.

    Attributes:
        micro: from the counts of all entities; the usual "F1" of named-entity recognition.
        macro: the mean over types, all of equal weight.
        types: the scores of each type in gold or predicted, in alphabetical order.
    """

    micro: F1Scores
    macro: F1Scores
    types: dict[str, F1Scores]


def entities(tags: Sequence[str]) -> list[Entity]:
    """Finds the entities of one sequence, in seqeval's default, lenient mode.

    A tag is O (outside), or B, I, E or S (beginning, inside, end, single), alone or with a dash and
    a type. An entity continues from one word to the next if the first is a B or an I, the second is
    an I or an E, and both have the same type. All other tags except O begin an entity, for example
    an I after an O or after another type.

    Args:
        tags: one for each word, in the schemes BIO, IOB, IOE, BIOES or without B.

    Returns:
        The entities in order; they do not overlap.

    Raises:
        InputError: a tag has another form (differs from seqeval, which warns and guesses).

    Example:
        >>> entities(["B-PER", "I-PER", "O", "I-LOC"])
        [Entity(type='PER', start=0, end=2), Entity(type='LOC', start=3, end=4)]
    """
    if isinstance(tags, str):
        raise InputError(f"Expected a list of tags, one for each word, got the string {tags!r}.")
    found: list[Entity] = []
    open_type = None  # type of the entity that the next tag may continue
    for word, tag in enumerate(tags):
        match = TAG.fullmatch(tag)
        if match is None:
            raise InputError(
                f"Tag {word} is {tag!r}: expected O, or B, I, E or S, alone or as in B-PER. Rename "
                "the tags of other schemes first (in BILOU, L to E and U to S)."
            )
        prefix, type_ = match[1], match[2] or NO_TYPE
        if prefix in ("I", "E") and open_type == type_:
            found[-1] = Entity(type_, found[-1].start, word + 1)
        elif prefix is not None:
            found.append(Entity(type_, word, word + 1))
        open_type = type_ if prefix in ("B", "I") else None
    return found


def entity_scores(
    gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]
) -> EntityScores:
    """Precision, recall and F1 of entities; one counts as found if type, start and end are right.

    Equal to seqeval's `precision_recall_fscore_support` in its default mode with `zero_division=0`.

    Args:
        gold, predicted: N sequences of tags each, as `entities` takes them. Leave out words without
            a label, such as later pieces of a word, on both sides.

    Returns:
        Each figure 0 to 1; all 0 if there is no entity on either side.

    Raises:
        InputError: there are no sequences, lengths differ, or a tag has an unknown form.

    Example:
        >>> scores = entity_scores([["B-PER", "O", "B-LOC"]], [["B-PER", "O", "O"]])
        >>> round(scores.micro.f1, 4), scores.types["PER"].f1
        (0.6667, 1.0)

    References: Tjong Kim Sang and De Meulder 2003, "Introduction to the CoNLL-2003 Shared Task";
    seqeval 1.2.2, metrics/sequence_labeling.py.
    """
    if not gold or len(gold) != len(predicted):
        raise InputError(
            "gold and predicted: expected the same number of sequences, at least one; got "
            f"{len(gold)} and {len(predicted)}."
        )
    hits: Counter[str] = Counter()
    in_predicted: Counter[str] = Counter()
    in_gold: Counter[str] = Counter()
    for number, (right, guess) in enumerate(zip(gold, predicted, strict=True)):
        if len(right) != len(guess):
            raise InputError(
                f"Sequence {number} has {len(right)} gold and {len(guess)} predicted tags: "
                "expected one of each for every word."
            )
        try:
            right_ones, guesses = entities(right), entities(guess)
        except InputError as error:
            raise InputError(f"Sequence {number}: {error}") from error
        in_gold.update(entity.type for entity in right_ones)
        in_predicted.update(entity.type for entity in guesses)
        hits.update(entity.type for entity in set(right_ones) & set(guesses))
    types = {
        name: F1Scores.from_counts(hits[name], in_predicted[name], in_gold[name])
        for name in sorted(in_gold | in_predicted)
    }
    return EntityScores(
        micro=F1Scores.from_counts(hits.total(), in_predicted.total(), in_gold.total()),
        macro=F1Scores.mean(list(types.values())),
        types=types,
    )
