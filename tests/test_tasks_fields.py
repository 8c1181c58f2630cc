"""Fields of records under the names that tasks know."""

from typing import Any

import pytest

from minilm.errors import DataError
from minilm.tasks.catalogue import TASKS
from minilm.tasks.fields import renamed

OTHER: dict[str, Any] = {"label": "x", "labels": ["x"], "intent": "x"}


@pytest.mark.parametrize(
    ("task", "record", "expected"),
    [
        ("classification", {"text": "a", "mine": "good", **OTHER}, ["good"]),
        ("multi-label", {"text": "a", "mine": ["good", "old"], **OTHER}, ["good", "old"]),
        ("multi-label", {"text": "a", "mine": "good, old", **OTHER}, ["good", "old"]),
        (
            "tagging",
            {"tokens": ["a", "b"], "mine": ["B-X", "O"], "tags": ["B-Y", "O"], **OTHER},
            ["B-X", "O"],
        ),
        (
            "utterances",
            {"tokens": ["a", "b"], "tags": ["B-X", "O"], "mine": "good", **OTHER},
            ["intent=good"],
        ),
    ],
)
def test_the_label_column_goes_before_fields_of_the_usual_names(
    task: str, record: dict[str, Any], expected: list[str]
) -> None:
    other = {**record, "mine": "bad" if isinstance(record["mine"], str) else record["mine"]}
    records = renamed([record, other], {"label": "mine"})
    labels = TASKS[task].learn(records, 16, {}).labels
    assert set(expected) <= set(labels)
    assert not {"x", "intent=x", "B-Y"} & set(labels)


def test_a_column_that_is_not_there_is_named() -> None:
    with pytest.raises(DataError, match="record 0: there is no field 'mine' for label; it has"):
        renamed([{"text": "a"}], {"label": "mine"})


def test_without_columns_records_stay_as_they_are() -> None:
    records = [{"text": "a", "label": "x"}]
    assert renamed(records, {"text": None, "label": None}) is records
