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
from minilm.errors import ConfigError, InputError
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
    expected = {
        "interval": ((0,), (3,), (5,)),
        "average": ((0, 3), (1, 4), (2, 5)),
        None: ((0, 3), (1, 4), (2, 5)),
    }
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
    nothing_shared = init_student(
        teacher, student="albert", num_hidden_groups=3, num_hidden_layers=3
    )
    assert nothing_shared.student_report is not None
    assert nothing_shared.student_report.layers == ((0,), (3,), (5,))
    by_hand = init_student(teacher, [5, 0], student="albert")
    assert isinstance(by_hand.config, minilm.AlbertConfig)
    assert (by_hand.config.inner_group_num, by_hand.config.num_hidden_layers) == (2, 3)
    for name, value in next(iter(by_hand.base.virtual_layers())).state_dict().items():
        assert torch.equal(value, theirs[5][name])


def test_a_block_that_layers_have_in_common_starts_from_all_of_them() -> None:
    teacher = teacher_of("bert")
    made = init_student(
        teacher, student="albert", num_hidden_groups=4, shared_between_groups="attention"
    )
    ours, theirs = (list(model.base.virtual_layers()) for model in (made, teacher))
    for name in ("attention.query.weight", "attention_norm.bias"):
        mean = torch.stack([layer.get_parameter(name) for layer in theirs]).mean(0)
        torch.testing.assert_close(ours[3].get_parameter(name), mean)
    for mine, its in zip(ours, theirs, strict=True):
        name = "feed_forward.output.weight"
        assert torch.equal(mine.get_parameter(name), its.get_parameter(name))
    assert made.student_report is not None
    taken = made.student_report.taken
    assert taken["encoder.groups.0.layers.0.attention"] == "the mean of layers 0, 1, 2, 3"
    assert taken["encoder.groups.3.layers.0.feed_forward"] == "layer 3"
    assert "encoder.groups.3.layers.0.attention" not in taken


@pytest.mark.parametrize("start", ["interval", "average", "random"])
@pytest.mark.parametrize("student", ["bert", "distilbert"])
def test_where_layers_start_does_not_change_their_number(student: Any, start: Any) -> None:
    teacher = teacher_of("bert", num_hidden_layers=6)
    usual = init_student(teacher, student=student)
    assert init_student(teacher, student=student, start=start).config == usual.config
    assert usual.config.num_hidden_layers == 3


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


def test_tables_of_fewer_rows_than_columns_lose_nothing_in_as_many_directions() -> None:
    """Then directions say nothing at all, and the mean of a row must not be among those kept."""
    sizes = {"vocab_size": 61, "max_position_embeddings": 20, "hidden_size": 120}
    model = teacher_of("bert", dtype=torch.float64, **sizes)
    with torch.no_grad():
        model.base.embeddings.word.weight += 1.0
    for size in (90, 119, 130):
        student = init_student(model, student="albert", embedding_size=size, num_hidden_groups=4)
        torch.testing.assert_close(embeddings(student), embeddings(model), rtol=0, atol=1e-9)


def states(model: PretrainedModel) -> Tensor:
    with torch.no_grad():
        return torch.as_tensor(model.base(**one_segment()).last_hidden_state)


def test_an_unrolled_albert_keeps_its_layers_and_names_what_it_loses() -> None:
    """Nothing is lost but by the embeddings, whose norm stands behind the projection."""
    albert = teacher_of("albert", dtype=torch.float64)
    student = init_student(albert, student="bert", layers=[0, 1, 2, 3])
    for ours, theirs in zip(
        student.base.virtual_layers(), albert.base.virtual_layers(), strict=True
    ):
        for name, value in theirs.state_dict().items():
            assert torch.equal(ours.state_dict()[name], value)
    embedded, wanted = embeddings(student), embeddings(albert)
    error = (embedded - wanted).square().mean() / (wanted - wanted.mean(0)).square().mean()
    assert 1e-6 < float(error) < 0.35
    fresh = init_student(albert, student="bert", num_hidden_layers=4)
    fresh.base.embeddings.norm.weight.data.fill_(1)  # the gain is part of the fit
    worse = (embeddings(fresh) - wanted).square().mean() / (wanted - wanted.mean(0)).square().mean()
    assert float(worse) > float(error)
    assert "average effect alone" in str(student.student_report)


def embeddings(model: PretrainedModel) -> Tensor:
    """(words x positions, H) of every word at every position."""
    words, positions = torch.meshgrid(torch.arange(61), torch.arange(20), indexing="ij")
    with torch.no_grad():
        found: Tensor = model.base.embeddings(words, positions, torch.zeros_like(words))
    return found.flatten(0, 1)


@pytest.mark.parametrize("architecture", ["bert", "distilbert", "albert"])
def test_the_directions_kept_are_those_that_say_most(architecture: str) -> None:
    """Fewer directions lose more; and far less than a random basis does."""
    teacher = teacher_of(architecture, dtype=torch.float64)
    wanted, errors, energies = embeddings(teacher), [], []
    for size in (3, 5, 7):
        student = init_student(teacher, student="albert", embedding_size=size, num_hidden_groups=4)
        errors.append(float((embeddings(student) - wanted).square().mean()))
        assert student.student_report is not None
        energies.append(student.student_report.retained_energy["words"])
    assert errors == sorted(errors, reverse=True)
    assert energies == sorted(energies)
    assert 0 < energies[0] < energies[-1] < 1
    centred = teacher.base.embeddings.word.weight.detach()
    centred = centred - centred.mean(1, keepdim=True)
    most = torch.linalg.svdvals(centred).square()
    for size, energy in zip((3, 5, 7), energies, strict=True):
        assert energy <= float(most[: size - 1].sum() / most.sum()) + 1e-12


def test_a_folded_head_predicts_what_the_teachers_does() -> None:
    """On states as the teacher's last norm spreads them, by far nearer than a fresh one."""
    teacher = teacher_of("bert", dtype=torch.float64)
    with torch.no_grad():
        for part in teacher.modules():
            if isinstance(part, torch.nn.LayerNorm):  # gains as training leaves them
                part.weight.mul_(0.5).add_(1)
    student = init_student(teacher, student="albert", embedding_size=12, num_hidden_groups=4)
    fresh = init_student(
        teacher,
        student="albert",
        embedding_size=12,
        num_hidden_groups=4,
        copy_mlm_transform=False,
    )
    norm = list(teacher.base.virtual_layers())[-1].get_submodule("feed_forward_norm")
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(500, 16, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        spread = norm(noise)

        def scores(model: PretrainedModel) -> Tensor:
            head = model.get_submodule("masked_lm_head")
            found = torch.as_tensor(head(spread, model.base.embeddings.word.weight))
            return found - found.mean(-1, keepdim=True)

        wanted = scores(teacher)
        spread_of = (wanted - wanted.mean(0)).square().mean()
        error = (scores(student) - wanted).square().mean() / spread_of
        without = (scores(fresh) - wanted).square().mean() / spread_of
    assert float(error) < 0.5
    assert float(without) > 1.5 * float(error)


def test_other_widths_take_the_embeddings_and_say_what_is_fresh() -> None:
    made = init_student(teacher_of("bert"), student="bert", hidden_size=8, num_hidden_layers=2)
    config = made.config
    assert (config.num_attention_heads, config.intermediate_size) == (2, 12)
    report = made.student_report
    assert report is not None
    assert report.taken["encoder.embeddings.word"] == "the teacher's on 7 directions"
    assert set(report.fresh) == {
        "encoder.layers.0.attention",
        "encoder.layers.0.feed_forward",
        "encoder.layers.1.attention",
        "encoder.layers.1.feed_forward",
        "masked_lm_head.dense",
        "masked_lm_head.norm",
    }
    assert report.layers == ((), ())
    assert "the hidden size is 8, the teacher's 16" in str(report)
    wide = init_student(teacher_of("bert"), student="bert", layers=[1], intermediate_size=28)
    assert wide.student_report is not None
    assert list(wide.student_report.fresh) == ["encoder.layers.0.feed_forward"]
    assert wide.student_report.taken["encoder.layers.0.attention"] == "layer 1"
    assert wide.student_report.layers == ((1,),)
    heads = init_student(teacher_of("bert"), student="bert", layers=[1], num_attention_heads=2)
    assert heads.student_report is not None
    assert list(heads.student_report.fresh) == ["encoder.layers.0.attention"]


def test_narrower_feed_forward_blocks_take_the_strongest_neurons() -> None:
    teacher = teacher_of("bert", hidden_act="relu")
    silent = torch.tensor([0, 5, 11, 23])
    with torch.no_grad():
        for layer in teacher.base.virtual_layers():
            weights = dict(layer.get_submodule("feed_forward").named_parameters())
            weights["output.weight"][:, silent[:2]] = 0  # nothing goes out
            weights["intermediate.weight"][silent[2:]] = 0  # nothing comes in
            weights["intermediate.bias"][silent[2:]] = 0
    narrow = init_student(teacher, student="bert", layers=range(4), intermediate_size=20)
    assert torch.allclose(logits(narrow), logits(teacher), atol=1e-5)
    assert narrow.student_report is not None
    assert narrow.student_report.fresh == {}
    taken = narrow.student_report.taken["encoder.layers.2.feed_forward"]
    assert taken == "layer 2, the strongest 20 neurons"


def test_a_random_start_takes_everything_but_the_layers() -> None:
    teacher = teacher_of("bert")
    made = init_student(teacher, student="albert", embedding_size=16, start="random")
    assert made.student_report is not None
    assert made.student_report.layers == ((),)
    assert made.student_report.fresh == {"encoder.groups.0.layers.0": "a random start"}
    assert torch.equal(made.base.embeddings.word.weight, teacher.base.embeddings.word.weight)
    weight = made.get_parameter("encoder.groups.0.layers.0.attention.query.weight")
    assert 0.01 < float(weight.detach().std()) < 0.03


def test_more_words_and_positions_start_fresh_behind_the_teachers() -> None:
    teacher = teacher_of("bert")
    made = init_student(teacher, student="bert", vocab_size=64, max_position_embeddings=10)
    ours, theirs = made.base.embeddings, teacher.base.embeddings
    assert torch.equal(ours.word.weight[:61], theirs.word.weight)
    assert torch.equal(ours.position.weight, theirs.position.weight[:10])
    assert made.student_report is not None
    assert made.student_report.fresh == {"encoder.embeddings.word[61:]": "the teacher has 61 rows"}
    assert "the first 10 rows" in made.student_report.taken["encoder.embeddings.position"]
    bias = made.get_parameter("masked_lm_head.bias")
    assert torch.equal(bias[:61], teacher.get_parameter("masked_lm_head.bias"))
    assert bool((bias[61:] == 0).all())


def test_a_sentence_encoder_has_a_student_without_a_head() -> None:
    teacher = teacher_of("bert", "Model")
    made = init_student(teacher, student="albert", embedding_size=8)
    assert type(made) is minilm.AlbertModel
    assert made.pooler is not None
    assert torch.equal(made.pooler.dense.weight, teacher.get_parameter("pooler.dense.weight"))
    small = init_student(teacher_of("distilbert", "Model"), student="albert", embedding_size=8)
    assert small.base.pooler is None
    assert bool((small.get_parameter("embeddings.token_type.weight") == 0).all())
    assert type(init_student(teacher_of("albert", "ForPreTraining"))).__name__ == (
        "DistilBertForMaskedLM"
    )


@pytest.mark.parametrize(("unique", "groups", "size"), [(1, 1, 8), (3, 1, 6), (2, 2, 10)])
def test_parameters_in_closed_form(unique: int, groups: int, size: int) -> None:
    made = init_student(
        teacher_of("bert"),
        student="albert",
        inner_group_num=unique,
        num_hidden_groups=groups,
        num_hidden_layers=4,
        embedding_size=size,
    )
    vocabulary, positions, hidden, inner = 61, 20, 16, 24
    layer = 4 * (hidden * hidden + hidden) + 2 * hidden * inner + inner + hidden + 4 * hidden
    embedding = (vocabulary + positions + 2 + 2) * size + size * hidden + hidden
    head = hidden * size + 3 * size + vocabulary
    assert made.num_parameters() == embedding + unique * groups * layer + head


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (
            {"student": "gpt"},
            InputError,
            "student is 'gpt': expected one of 'distilbert', 'albert'",
        ),
        ({"start": "middle"}, InputError, "start is 'middle': expected 'interval', 'average'"),
        ({"layers": [0], "start": "average"}, InputError, "give one of the two"),
        ({"layers": [0, 1], "num_hidden_layers": 3}, InputError, "2 layers of the teacher, but"),
        ({"start": [0, 9], "num_hidden_layers": 2}, InputError, "start contains 9"),
        ({"embedding_size": 8}, ConfigError, "DistilBertConfig has no 'embedding_size'"),
        ({"student": "albert", "inner_group_num": 3}, InputError, "no multiple of inner_group_num"),
        ({"student": "albert", "inner_group_num": 0}, ConfigError, "inner_group_num is 0"),
        (
            {"student": "albert", "num_hidden_groups": 5, "num_hidden_layers": 4},
            InputError,
            "some groups would never be applied",
        ),
        ({"hidden_size": 10, "num_hidden_layers": 1}, ConfigError, "not a multiple of"),
        ({"student": "albert", "embedding_size": 1}, InputError, "embedding_size is 1"),
    ],
)
def test_refusals(given: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        init_student(teacher_of("bert"), **given)
    assert message in str(caught.value)
