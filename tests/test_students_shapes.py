"""Students of every architecture and shape, from teachers of every architecture."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

import minilm
from minilm.compression.starts import layers_at_interval, layers_stood_for
from minilm.compression.students import init_student
from minilm.models.pretrained import PretrainedModel
from tiny import ragged, tiny

STEMS = {"bert": "Bert", "distilbert": "DistilBert", "albert": "Albert"}


def teacher_of(architecture: str, head: str = "ForMaskedLM", **changes: Any) -> PretrainedModel:
    changes = {"num_hidden_layers": 4, "dtype": torch.float32, **changes}
    return tiny(f"{STEMS[architecture]}{head}", **changes)


def one_segment() -> dict[str, Tensor]:
    batch = ragged()
    del batch["token_type_ids"]
    return batch


def logits(model: PretrainedModel) -> Tensor:
    with torch.no_grad():
        return torch.as_tensor(model(**one_segment()).logits)


SHAPES: dict[str, list[dict[str, Any]]] = {
    "bert": [{}, {"num_hidden_layers": 3, "start": "average"}, {"hidden_size": 8}],
    "distilbert": [{}, {"num_hidden_layers": 5}, {"hidden_size": 12, "num_hidden_layers": 2}],
    "albert": [
        {"embedding_size": 8},
        {"embedding_size": 16, "inner_group_num": 2, "num_hidden_layers": 2},
        {"embedding_size": 6, "inner_group_num": 3, "num_hidden_layers": 4},
        {"embedding_size": 5, "num_hidden_groups": 2, "num_hidden_layers": 4, "start": "average"},
        {"embedding_size": 4, "hidden_size": 8, "intermediate_size": 12},
    ],
}


@pytest.mark.parametrize("teacher", STEMS)
@pytest.mark.parametrize(
    ("student", "shape"), [(name, shape) for name, shapes in SHAPES.items() for shape in shapes]
)
def test_transformers_computes_the_same(
    teacher: str, student: Any, shape: dict[str, Any], tmp_path: Path
) -> None:
    made = init_student(teacher_of(teacher), student=student, **shape)
    made.save_pretrained(tmp_path)
    oracle_class = getattr(transformers, f"{STEMS[student]}ForMaskedLM")
    oracle, found = oracle_class.from_pretrained(
        tmp_path, local_files_only=True, output_loading_info=True
    )
    assert not found["missing_keys"]
    assert not found["unexpected_keys"]
    mask = one_segment()["attention_mask"].bool()
    with torch.no_grad():
        theirs = oracle.eval()(**one_segment()).logits[mask]
    ours = logits(made)[mask]
    assert bool(ours.isfinite().all())
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    for name, value in shape.items():
        if name != "start":
            assert getattr(made.config, name) == value
    again = minilm.load(tmp_path)
    assert type(again) is type(made)
    assert torch.equal(logits(again), logits(made))


# --- which layers ---


@pytest.mark.parametrize(
    ("count", "depth", "expected"),
    [
        (1, 12, (6,)),
        (1, 1, (0,)),
        (2, 12, (0, 11)),
        (3, 12, (0, 6, 11)),
        (4, 12, (0, 4, 7, 11)),
        (6, 12, (0, 2, 4, 7, 9, 11)),  # the layers of the released DistilBERT
        (12, 12, tuple(range(12))),
        (4, 2, (0, 0, 1, 1)),
    ],
)
def test_layers_at_an_interval(count: int, depth: int, expected: tuple[int, ...]) -> None:
    assert layers_at_interval(count, depth) == expected


@pytest.mark.parametrize(
    ("places", "applications", "depth", "expected"),
    [
        ([0, 3, 6, 9], 12, 12, (0, 3, 6, 9)),
        ([0, 1, 2], 3, 12, tuple(range(12))),
        ([1], 3, 12, (4, 5, 6, 7)),
        ([2, 3], 4, 2, (1,)),
        ([1], 2, 3, (1, 2)),  # half of the middle one is its
    ],
)
def test_the_layers_that_one_stands_for(
    places: list[int], applications: int, depth: int, expected: tuple[int, ...]
) -> None:
    assert layers_stood_for(places, applications, depth) == expected


def test_a_shared_layer_is_the_layer_or_the_mean_that_it_starts_from() -> None:
    teacher = teacher_of("bert", num_hidden_layers=6)
    theirs = [layer.state_dict() for layer in teacher.base.virtual_layers()]
    shape: dict[str, Any] = {"student": "albert", "inner_group_num": 3, "num_hidden_layers": 2}
    expected = {"interval": ((0,), (3,), (5,)), "average": ((0, 3), (1, 4), (2, 5))}
    for start, numbers in expected.items():
        made = init_student(teacher, start=start, **shape)  # type: ignore[arg-type]
        assert made.student_report is not None
        assert made.student_report.layers == numbers
        for layer, sources in zip(made.base.virtual_layers(), [*numbers, *numbers], strict=True):
            for name, value in layer.state_dict().items():
                mean = sum(theirs[number][name].double() for number in sources) / len(sources)
                torch.testing.assert_close(value, mean.float(), rtol=0, atol=1e-7)
    grouped = init_student(
        teacher, student="albert", num_hidden_groups=3, num_hidden_layers=6, start="average"
    )
    assert grouped.student_report is not None
    assert grouped.student_report.layers == ((0, 1), (2, 3), (4, 5))
    by_hand = init_student(teacher, [5, 0], student="albert")
    assert by_hand.config.inner_group_num == 2
    assert by_hand.config.num_hidden_layers == 3
    for name, value in next(iter(by_hand.base.virtual_layers())).state_dict().items():
        assert torch.equal(value, theirs[5][name])


# --- what is exact ---


@pytest.mark.parametrize("teacher", ["bert", "distilbert"])
def test_an_unshared_albert_with_full_embeddings_is_its_teacher(teacher: str) -> None:
    model = teacher_of(teacher, dtype=torch.float64)
    student = init_student(model, student="albert", embedding_size=16, num_hidden_groups=4)
    torch.testing.assert_close(logits(student), logits(model), rtol=0, atol=1e-10)
    assert student.student_report is not None
    assert not student.student_report.fresh


def test_wider_embeddings_than_the_teachers_lose_nothing() -> None:
    model = teacher_of("bert", dtype=torch.float64)
    wide = init_student(model, student="albert", embedding_size=20, num_hidden_groups=4)
    torch.testing.assert_close(states(wide), states(model), rtol=0, atol=1e-9)
    narrow = init_student(model, student="albert", embedding_size=15, num_hidden_groups=4)
    assert float((states(narrow) - states(model)).abs().max()) > 1e-3


def states(model: PretrainedModel) -> Tensor:
    with torch.no_grad():
        return torch.as_tensor(model.base(**one_segment()).last_hidden_state)
