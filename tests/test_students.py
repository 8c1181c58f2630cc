"""Students made of their teacher's layers."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import minilm
from minilm.compression.starts import chosen_layers
from minilm.compression.students import init_student
from minilm.errors import ConfigError, InputError
from minilm.models.bert import BertModel
from minilm.models.distilbert import DistilBertForMaskedLM, DistilBertModel
from minilm.models.pretrained import PretrainedModel
from tiny import ragged, tiny

# what each part of the student is copied from; the fold adds to the position table
PARTS = [
    "embeddings.word.weight",
    "embeddings.position.weight",
    "embeddings.norm.weight",
    "embeddings.norm.bias",
]
HEAD = ["dense.weight", "dense.bias", "norm.weight", "norm.bias", "bias"]


def teacher_of(class_name: str = "BertForMaskedLM", **changes: Any) -> PretrainedModel:
    return tiny(class_name, **changes)


def encoder(model: PretrainedModel) -> BertModel:
    assert isinstance(model.base, BertModel)
    return model.base


def hidden_states(model: PretrainedModel, **options: Any) -> tuple[Tensor, ...]:
    states = model.base(**options, output_hidden_states=True).hidden_states
    assert states is not None
    return states


@pytest.mark.parametrize(
    ("layers", "depth", "expected"),
    [
        ("every_other", 12, (0, 2, 4, 6, 8, 10)),
        ("every_other", 5, (0, 2, 4)),
        ("every_other", 1, (0,)),
        ("published", 12, (0, 2, 4, 7, 9, 11)),
        ([11, 0, 0], 12, (11, 0, 0)),
        ((1,), 2, (1,)),
        (range(1, 4), 4, (1, 2, 3)),
    ],
)
def test_which_layers_a_choice_means(layers: Any, depth: int, expected: tuple[int, ...]) -> None:
    assert chosen_layers(layers, depth) == expected


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ("published", "the teacher has 3. Use 'every_other'"),
        ("all", "layers is 'all': expected 'every_other', 'published' or numbers from 0 to 2"),
        ([], "layers is []: expected"),
        (2, "layers is 2: expected"),
        ([0, -1], "layers contains -1: the teacher has layers 0 to 2"),
        ([0, 3], "layers contains 3: the teacher has layers 0 to 2"),
        ([0, 1.0], "layers contains 1.0"),
        ([True], "layers contains True"),
        (["0"], "layers contains '0'"),
    ],
)
def test_a_wrong_choice_is_refused_with_what_exists(layers: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        init_student(teacher_of(), layers)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("layers", "numbers"), [("every_other", (0, 2)), ([2, 1], (2, 1)), ([0], (0,))]
)
@pytest.mark.parametrize("fold", [True, False])
def test_every_copied_tensor_is_the_teachers(
    layers: Any, numbers: tuple[int, ...], fold: bool
) -> None:
    teacher = teacher_of()
    student = init_student(teacher, layers, fold_token_types=fold)
    assert isinstance(student, DistilBertForMaskedLM)
    ours, theirs = dict(student.named_parameters()), dict(teacher.named_parameters())
    expected = {f"encoder.{name}": theirs.pop(f"encoder.{name}") for name in PARTS}
    if fold:
        expected["encoder.embeddings.position.weight"] = (
            expected["encoder.embeddings.position.weight"]
            + theirs["encoder.embeddings.token_type.weight"][0]
        )
    for new, old in enumerate(numbers):
        for name, value in theirs.items():
            prefix = f"encoder.layers.{old}."
            if name.startswith(prefix):
                expected[f"encoder.layers.{new}.{name.removeprefix(prefix)}"] = value
    expected |= {f"masked_lm_head.{name}": theirs[f"masked_lm_head.{name}"] for name in HEAD}
    assert ours.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(ours[name], value), name
        assert ours[name] is not value, name
    assert not student.training


def test_the_published_student_has_the_published_tensors() -> None:
    teacher = teacher_of(num_hidden_layers=12)
    student = init_student(teacher, "published")
    assert len(list(student.parameters())) == 4 + 6 * 16 + 5  # 106 with the tied decoder weight
    for new, old in enumerate((0, 2, 4, 7, 9, 11)):
        ours = student.base.get_submodule(f"layers.{new}").state_dict()
        for name, value in encoder(teacher).layers[old].state_dict().items():
            assert torch.equal(ours[name], value)


def test_folding_reproduces_the_teachers_embeddings_of_one_segment() -> None:
    teacher = teacher_of()
    batch = ragged()
    del batch["token_type_ids"]
    wanted = hidden_states(teacher, **batch)[0]
    folded = hidden_states(init_student(teacher), **batch)[0]
    plain = hidden_states(init_student(teacher, fold_token_types=False), **batch)[0]
    torch.testing.assert_close(folded, wanted, rtol=0, atol=1e-12)
    assert float((plain - wanted).detach().abs().max()) > 0.1


def test_a_student_of_all_layers_is_its_teacher() -> None:
    """The two architectures differ in token types and dropout only."""
    teacher = teacher_of()
    batch = ragged()
    del batch["token_type_ids"]
    student = init_student(teacher, [0, 1, 2])
    torch.testing.assert_close(student(**batch).logits, teacher(**batch).logits, rtol=0, atol=1e-10)


def test_a_fresh_transform_is_drawn_but_its_bias_is_copied() -> None:
    teacher = teacher_of()
    head = teacher.get_submodule("masked_lm_head")
    student = init_student(teacher, copy_mlm_transform=False)
    assert isinstance(student, DistilBertForMaskedLM)
    fresh = student.masked_lm_head
    assert torch.equal(fresh.bias, head.bias)
    assert not torch.equal(fresh.dense.weight, head.dense.weight)
    assert 0.01 < float(fresh.dense.weight.detach().std()) < 0.03
    assert bool((fresh.dense.bias == 0).all())
    assert bool((fresh.norm.weight == 1).all())
    assert bool((fresh.norm.bias == 0).all())


@pytest.mark.parametrize(
    ("class_name", "masked_lm", "expected"),
    [
        ("BertForMaskedLM", None, DistilBertForMaskedLM),
        ("BertForMaskedLM", False, DistilBertModel),
        ("BertForPreTraining", None, DistilBertForMaskedLM),
        ("BertForPreTraining", True, DistilBertForMaskedLM),
        ("BertModel", None, DistilBertModel),
        ("BertForSequenceClassification", None, DistilBertModel),
    ],
)
def test_the_kind_of_student(class_name: str, masked_lm: bool | None, expected: type) -> None:
    student = init_student(teacher_of(class_name), masked_lm=masked_lm)
    assert type(student) is expected


def test_a_missing_head_is_named_when_one_is_asked_for() -> None:
    with pytest.raises(InputError, match="BertModel, has no masked-LM head to copy. Load it as"):
        init_student(teacher_of("BertModel"), masked_lm=True)


def test_something_that_is_no_model_is_refused() -> None:
    with pytest.raises(InputError, match="teacher is a str"):
        init_student("bert-base-uncased")  # type: ignore[arg-type]


def test_the_students_configuration_is_the_teachers() -> None:
    teacher = teacher_of(
        hidden_act="relu",
        hidden_dropout_prob=0.3,
        attention_probs_dropout_prob=0.2,
        pad_token_id=7,
        initializer_range=0.05,
    )
    student = init_student(teacher, [1])
    assert student.config == minilm.DistilBertConfig(
        vocab_size=61,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=24,
        max_position_embeddings=20,
        hidden_act="relu",
        hidden_dropout_prob=0.3,
        attention_probs_dropout_prob=0.2,
        pad_token_id=7,
        initializer_range=0.05,
    )
    assert student.base.embeddings.word.padding_idx == 7


def test_another_epsilon_cannot_be_kept() -> None:
    with pytest.raises(ConfigError, match="layer_norm_eps is 1e-05, .* with layer_norm_eps=1e-12"):
        init_student(teacher_of(layer_norm_eps=1e-5))


@pytest.mark.parametrize("freeze", [True, False])
def test_the_position_table_is_frozen_on_request(freeze: bool) -> None:
    student = init_student(teacher_of(), freeze_position_embeddings=freeze)
    assert isinstance(student.config, minilm.DistilBertConfig)
    assert student.base.embeddings.position.weight.requires_grad is not freeze
    others = [p for name, p in student.named_parameters() if "position" not in name]
    assert all(parameter.requires_grad for parameter in others)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("fold", [True, False])
def test_the_student_is_trained_in_at_least_float32_and_stays_apart(
    dtype: torch.dtype, fold: bool
) -> None:
    teacher = teacher_of(dtype=dtype)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    student = init_student(teacher)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert {parameter.dtype for parameter in student.parameters()} == {wide}
    weight = teacher.get_parameter("encoder.layers.0.feed_forward.output.weight")
    assert torch.equal(student.base.layers[0].feed_forward.output.weight, weight.to(wide))
    assert weight.dtype == dtype
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.zero_()
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_student_is_saved_and_loaded(tmp_path: Path) -> None:
    student = init_student(teacher_of(dtype=torch.float32), freeze_position_embeddings=True)
    student.save_pretrained(tmp_path)
    loaded = minilm.load(tmp_path)
    assert loaded.config.replace(extra={}) == student.config
    assert "freeze" not in (tmp_path / "config.json").read_text()
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    for name, value in student.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


def test_a_frozen_table_of_an_earlier_run_is_trained(tmp_path: Path) -> None:
    """Earlier versions wrote into config.json what one run had frozen."""
    init_student(teacher_of(dtype=torch.float32)).save_pretrained(tmp_path / "old")
    path = tmp_path / "old/config.json"
    path.write_text(
        json.dumps({**json.loads(path.read_text()), "freeze_position_embeddings": True})
    )
    loaded = minilm.load(tmp_path / "old")
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    assert loaded.load_report is not None
    assert "config.json: freeze_position_embeddings ignored" in loaded.load_report.notes
    classifier = minilm.DistilBertForSequenceClassification.from_pretrained(
        tmp_path / "old", num_labels=2
    )
    assert classifier.base.embeddings.position.weight.requires_grad
    loaded.save_pretrained(tmp_path / "new")
    assert "freeze" not in (tmp_path / "new/config.json").read_text()
