"""Entities against results of seqeval 1.2.2, recorded with its functions in their default mode.

Recorded were `get_entities` (whose ends are inclusive) and `precision_recall_fscore_support` with
`zero_division=0`, both of `seqeval.metrics.sequence_labeling`.
"""

import random

import pytest
from hypothesis import given, settings, strategies as st

from minilm.errors import InputError
from minilm.metrics.classification import F1Scores
from minilm.metrics.entities import Entity, EntityScores, entities, entity_scores


def words(text: str) -> list[str]:
    return text.split()


TAGS = words("O B-PER I-PER E-PER S-PER B-X-Y I-X-Y E-X-Y S-X-Y B I E S")
# len(get_entities([first, second])), a row for each first and a column for each second tag. As only
# neighbours decide where an entity begins and ends, this is all there is to know.
ENTITIES_OF_A_PAIR = [
    "0111111111111",
    "1211222222222",
    "1211222222222",
    "1222222222222",
    "1222222222222",
    "1222221122222",
    "1222221122222",
    "1222222222222",
    "1222222222222",
    "1222222222112",
    "1222222222112",
    "1222222222222",
    "1222222222222",
]
# tags as often as it takes for long entities to be common
FREQUENT = words("O O B-PER I-PER I-PER I-PER E-PER S-PER B-X-Y I-X-Y I-X-Y I-X-Y E-X-Y B I I")


def random_sequences(seed: int) -> tuple[list[list[str]], list[list[str]]]:
    """300 sequences of 1 to 20 tags, and the same with every tenth tag or so drawn anew."""
    rng = random.Random(seed)
    gold = [rng.choices(FREQUENT, k=1 + int(20 * rng.random())) for _ in range(300)]
    predicted = [
        [tag if rng.random() < 0.9 else rng.choices(FREQUENT)[0] for tag in tags] for tags in gold
    ]
    return gold, predicted


def joined(first: str, second: str) -> bool:
    """Whether seqeval takes two neighbours for one entity."""
    count = int(ENTITIES_OF_A_PAIR[TAGS.index(first)][TAGS.index(second)])
    return "O" not in (first, second) and count == 1


def test_every_pair_of_tags() -> None:
    counts = ["".join(str(len(entities([a, b]))) for b in TAGS) for a in TAGS]
    assert counts == ENTITIES_OF_A_PAIR


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(TAGS), max_size=25))
def test_entities_are_the_runs_of_joined_tags(tags: list[str]) -> None:
    expected = []
    for start, tag in enumerate(tags):
        if tag != "O" and (start == 0 or not joined(tags[start - 1], tag)):
            end = start + 1
            while end < len(tags) and joined(tags[end - 1], tags[end]):
                end += 1
            expected.append(Entity(tag[2:] or "_", start, end))
    assert entities(tags) == expected


def test_a_recorded_sequence() -> None:
    tags = words("I-PER I-PER B-X-Y I-X-Y I I O B O I-X-Y E-X-Y B-PER I-PER O S-PER B")
    recorded = [
        ("PER", 0, 1),
        ("X-Y", 2, 3),
        ("_", 4, 5),
        ("_", 7, 7),
        ("X-Y", 9, 10),
        ("PER", 11, 12),
        ("PER", 14, 14),
        ("_", 15, 15),
    ]
    assert entities(tags) == [Entity(kind, first, last + 1) for kind, first, last in recorded]
    assert tags in random_sequences(20)[0]


def test_recorded_scores() -> None:
    scores = entity_scores(*random_sequences(20))

    def recorded(precision: float, recall: float, f1: float, support: int) -> F1Scores:
        return F1Scores(*(pytest.approx(x, abs=1e-12) for x in (precision, recall, f1)), support)

    assert scores == EntityScores(
        micro=recorded(0.883053839364519, 0.8834437086092716, 0.8832487309644671, 2265),
        macro=recorded(0.8850375641842847, 0.8839937041279016, 0.8845036437161569, 2265),
        types={
            "PER": recorded(0.8849740932642487, 0.8886576482830385, 0.8868120456905504, 961),
            "X-Y": recorded(0.8670967741935484, 0.8704663212435233, 0.8687782805429864, 772),
            "_": recorded(0.903041825095057, 0.8928571428571429, 0.8979206049149339, 532),
        },
    )
    assert list(scores.types) == ["PER", "X-Y", "_"]


def test_the_example_of_seqevals_documentation() -> None:
    gold = [words("O O O B-MISC I-MISC I-MISC O"), words("B-PER I-PER O")]
    predicted = [words("O O B-MISC I-MISC I-MISC I-MISC O"), words("B-PER I-PER O")]
    scores = entity_scores(gold, predicted)
    assert scores.micro == F1Scores(0.5, 0.5, 0.5, 2)
    assert scores.macro == F1Scores(0.5, 0.5, 0.5, 2)
    assert scores.types == {
        "MISC": F1Scores(0.0, 0.0, 0.0, 1),
        "PER": F1Scores(1.0, 1.0, 1.0, 1),
    }


def test_a_type_on_one_side_alone_counts_in_the_macro_mean() -> None:
    scores = entity_scores([["B-A", "O"], ["S-C", "O"]], [["B-A", "B-B"], ["O", "O"]])
    assert scores.macro == F1Scores(*[pytest.approx(1 / 3)] * 3, support=2)  # recorded
    assert scores.types == {
        "A": F1Scores(1.0, 1.0, 1.0, 1),
        "B": F1Scores(0.0, 0.0, 0.0, 0),
        "C": F1Scores(0.0, 0.0, 0.0, 1),
    }
    assert scores.micro == F1Scores(0.5, 0.5, 0.5, 2)


def test_an_entity_must_agree_in_everything() -> None:
    gold = [["O", "B-A", "I-A", "O"]]
    for wrong in ("O B-A O O", "O B-A I-A I-A", "B-A I-A I-A O", "O B-B I-B O", "O B-A B-A O"):
        assert entity_scores(gold, [wrong.split()]).micro.f1 == 0.0, wrong
    for right in ("O I-A I-A O", "O B-A E-A O", "O I-A E-A O"):
        assert entity_scores(gold, [right.split()]).micro.f1 == 1.0, right


def test_an_entity_ends_with_its_sequence() -> None:
    divided = entity_scores([["B-A"], ["I-A"]], [["B-A"], ["B-A"]])
    assert divided.micro == F1Scores(1.0, 1.0, 1.0, 2)
    assert entity_scores([["B-A", "I-A"]], [["B-A", "B-A"]]).micro == F1Scores(0.0, 0.0, 0.0, 1)


def test_nothing_to_find() -> None:
    nothing = F1Scores(0.0, 0.0, 0.0, 0)
    for empty in ([["O", "O"]], [[]]):
        assert entity_scores(empty, empty) == EntityScores(micro=nothing, macro=nothing, types={})
    assert entities([]) == []


@pytest.mark.parametrize("tag", ["", "PER", "O-PER", "BPER", "b-PER", "L-PER", "-100"])
def test_tags_of_another_form(tag: str) -> None:
    with pytest.raises(InputError, match=f"Tag 1 is '{tag}': expected O, or B, I, E or S"):
        entities(["O", tag])
    with pytest.raises(InputError, match=f"Sequence 1: Tag 0 is '{tag}'"):
        entity_scores([["O"], ["O"]], [["O"], [tag]])


@pytest.mark.parametrize(
    ("gold", "predicted", "message"),
    [
        ([], [], "at least one; got 0 and 0"),
        ([["O"]], [["O"], ["O"]], "got 1 and 2"),
        ([["O"], ["O", "O"]], [["O"], ["O"]], "Sequence 1 has 2 gold and 1 predicted tags"),
        (["O"], ["O"], "Sequence 0: Expected a list of tags, .* got the string 'O'"),
    ],
)
def test_sequences_that_do_not_fit(gold, predicted, message) -> None:
    with pytest.raises(InputError, match=message):
        entity_scores(gold, predicted)
