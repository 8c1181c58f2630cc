"""Every model, head, option and mask against transformers, on tiny random models.

Whole tensors of every layer, the loss and the gradient of every parameter; see minilm/parity.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import minilm
from minilm.blocks import kernels
from minilm.blocks.activations import ACTIVATIONS
from minilm.errors import InputError
from minilm.loader import STEMS
from minilm.models.encoder import LayerRun
from minilm.models.pretrained import PretrainedModel
from minilm.parity import (
    MASKS,
    Inputs,
    ParityReport,
    compare,
    max_difference,
    observe_ours,
    observe_theirs,
    ragged_inputs,
    rows_of,
)
from oracle import hugging_face, plain_attention, steady_dropout
from tiny import ALL_CLASSES, SIZES, tiny

DROPOUTS = {
    "hidden_dropout_prob": 0.11,
    "attention_probs_dropout_prob": 0.23,
    "classifier_dropout": 0.37,
}


def batches(
    model: PretrainedModel, masks: Sequence[str] = MASKS, length: int | None = None
) -> list[Inputs]:
    return [
        ragged_inputs(model.config, mask, seed=seed, length=length, labels_for=type(model))
        for seed, mask in enumerate(masks)
    ]


def compared(model: PretrainedModel, inputs: list[Inputs] | None = None) -> ParityReport:
    """Everything there is to compare: gradients too, where there is a loss."""
    inputs = batches(model) if inputs is None else inputs
    gradients = "Model" not in type(model).__name__
    return compare(model, hugging_face(model), inputs, gradients=gradients)


def check(report: ParityReport, *, limit: float) -> None:
    assert report.passed, str(report)
    for row in report.rows:
        if not row.module.startswith(("gradient", "loss")):
            assert row.difference <= limit, str(row)


@pytest.mark.parametrize("name", ALL_CLASSES)
def test_every_class_and_mask_in_float64(name: str) -> None:
    check(compared(tiny(name)), limit=1e-10)


@pytest.mark.parametrize("length", [1, SIZES["max_position_embeddings"]])
@pytest.mark.parametrize("name", ALL_CLASSES)
def test_shortest_and_longest_input(name: str, length: int) -> None:
    model = tiny(name)
    check(compared(model, batches(model, ["none", "empty row"], length)), limit=1e-10)


@pytest.mark.parametrize("name", ALL_CLASSES)
def test_every_class_and_mask_in_float32(name: str) -> None:
    check(compared(tiny(name, torch.float32)), limit=2e-5)


@pytest.mark.parametrize("name", ["BertModel", "DistilBertModel", "AlbertModel"])
def test_base_models_compare_all_their_parts(name: str) -> None:
    """The grid would prove little if a module silently dropped out of it."""
    modules = [row.module for row in compared(tiny(name)).rows if row.call == "explicit"]
    layers = [f"layer {i}{part}" for i in range(3) for part in (" maps", "")]
    pooler = [] if name == "DistilBertModel" else ["pooler_output"]
    assert modules == ["embeddings", *layers, "last_hidden_state", *pooler] * len(MASKS)


@pytest.mark.parametrize("name", ["BertForPreTraining", "AlbertForPreTraining"])
def test_every_gradient_is_compared(name: str) -> None:
    model = tiny(name)
    rows = compared(model, batches(model, ["right"])).rows
    found = [row.module for row in rows if row.module.startswith("gradient")]
    expected = [f"gradient of {own}" for own, _ in model.named_parameters()] * 3
    assert sorted(found) == sorted(expected)


@pytest.mark.parametrize("embedding_size", [8, SIZES["hidden_size"]])
@pytest.mark.parametrize("inner", [1, 2])
@pytest.mark.parametrize("groups", [1, 2, 3, 4])
def test_albert_groups(groups: int, inner: int, embedding_size: int) -> None:
    model = tiny(
        "AlbertForPreTraining",
        num_hidden_layers=4,
        num_hidden_groups=groups,
        inner_group_num=inner,
        embedding_size=embedding_size,
    )
    check(compared(model), limit=1e-10)


def test_albert_groups_where_rounding_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first case in which Hugging Face's formula and i * G // L choose different groups."""
    model = tiny("AlbertModel", num_hidden_layers=18, num_hidden_groups=14)
    check(compared(model), limit=1e-10)

    def by_whole_numbers(hidden: Tensor, run: LayerRun) -> Tensor:
        for i in range(18):
            hidden = model.groups[i * 14 // 18](hidden, run)
        return hidden

    monkeypatch.setattr(model, "run_layers", by_whole_numbers)
    report = compared(model)
    assert report.first_divergence is not None
    assert report.first_divergence.module == "layer 9 maps"


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("stem", STEMS.values())
def test_activations(stem: str, activation: str) -> None:
    model = tiny(f"{stem}ForMaskedLM", hidden_act=activation)
    check(compared(model, batches(model, ["holes"])), limit=1e-10)


@pytest.mark.parametrize("stem", STEMS.values())
@pytest.mark.parametrize(
    "changes",
    [
        {"pad_token_id": None},
        {"pad_token_id": 7},
        {"num_attention_heads": 1},
        {"num_attention_heads": 16},
        {"num_hidden_layers": 1},
        {"intermediate_size": 5},
    ],
    ids=str,
)
def test_sizes(stem: str, changes: dict[str, Any]) -> None:
    model = tiny(f"{stem}ForMaskedLM", **changes)
    check(compared(model, batches(model, ["right"])), limit=1e-10)


@pytest.mark.parametrize("stem", ["Bert", "Albert"])
def test_norm_epsilon_and_token_types(stem: str) -> None:
    model = tiny(f"{stem}ForMaskedLM", layer_norm_eps=1e-2, type_vocab_size=5)
    check(compared(model, batches(model, ["right"])), limit=1e-10)


@pytest.mark.parametrize("stem", STEMS.values())
def test_position_ids_and_word_vectors(stem: str) -> None:
    model = tiny(f"{stem}Model")
    theirs = hugging_face(model)
    inputs = ragged_inputs(model.config, "right")
    positions = torch.arange(16).flip(0).expand(6, 16)
    words = torch.randn(6, 16, model.get_input_embeddings().embedding_dim, dtype=torch.float64)
    for arguments in (
        {"input_ids": inputs.input_ids, "position_ids": positions},
        {"inputs_embeds": words},
    ):
        arguments["attention_mask"] = inputs.attended.long()
        with torch.no_grad():
            found, expected = model(**arguments)[0], theirs(**arguments)[0]
        expected = expected.masked_fill(~inputs.attended[..., None], 0)
        assert max_difference(found, expected) < 1e-10


# --- training ---------------------------------------------------------------------------------


@pytest.fixture
def deterministic(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dropout becomes a function. Fused attention receives its probability and applies it."""
    monkeypatch.setattr(F, "dropout", steady_dropout)
    monkeypatch.setattr(kernels, "drop", steady_dropout)
    monkeypatch.setattr(F, "scaled_dot_product_attention", plain_attention)


def training(name: str, **changes: Any) -> PretrainedModel:
    more = {"qa_dropout": 0.41} if name.startswith("Distil") else {}
    return tiny(name, **DROPOUTS, **more, **changes).train()


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("name", ALL_CLASSES)
def test_dropout_acts_where_and_as_strongly_as_theirs(name: str) -> None:
    check(compared(training(name)), limit=1e-10)


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("name", ALL_CLASSES)
def test_dropout_in_another_place_would_be_noticed(name: str) -> None:
    """Each dropout module in turn; attention keeps its probability in a number of its own."""
    model = training(name)
    (inputs,) = batches(model, ["right"])
    expected = observe_theirs(hugging_face(model), inputs)

    def same() -> bool:
        return all(row.passed for row in rows_of(model, expected, inputs, calls=["padded"]))

    for part in model.modules():
        for attribute in ("p", "dropout"):
            value = getattr(part, attribute, None)
            if isinstance(value, float):
                setattr(part, attribute, value + 1e-6)
                assert not same(), (part, attribute)
                setattr(part, attribute, value)
    assert same()


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("stem", STEMS.values())
def test_gradient_checkpointing_changes_nothing(stem: str) -> None:
    model = training(f"{stem}ForMaskedLM")
    model.gradient_checkpointing_enable()
    check(compared(model), limit=1e-10)


# --- losses -----------------------------------------------------------------------------------


@pytest.mark.parametrize("stem", STEMS.values())
@pytest.mark.parametrize(
    ("problem_type", "num_labels"),
    [
        (None, 1),
        ("regression", 1),
        ("regression", 3),
        ("single_label_classification", 3),
        ("multi_label_classification", 3),
        (None, 5),
    ],
)
def test_problem_types(stem: str, problem_type: str | None, num_labels: int) -> None:
    model = tiny(
        f"{stem}ForSequenceClassification", problem_type=problem_type, num_labels=num_labels
    )
    check(compared(model), limit=1e-10)


@pytest.mark.parametrize("stem", STEMS.values())
def test_real_labels_of_several_classes_mean_several_labels(stem: str) -> None:
    model = tiny(f"{stem}ForSequenceClassification", num_labels=3)
    inputs = ragged_inputs(model.config, "right")
    inputs = dataclasses.replace(inputs, labels={"labels": torch.rand(6, 3).round()})
    check(compared(model, [inputs]), limit=1e-10)


@pytest.mark.parametrize("stem", STEMS.values())
def test_answers_beyond_the_row_do_not_count(stem: str) -> None:
    model = tiny(f"{stem}ForQuestionAnswering")
    for mask in ("none", "right"):
        (inputs,) = batches(model, [mask])
        start, end = (position.clone() for position in inputs.labels.values())
        start[1], end[1], end[3] = 16, 99, 16
        inputs = dataclasses.replace(
            inputs, labels={"start_positions": start, "end_positions": end}
        )
        check(compared(model, [inputs]), limit=1e-10)


@pytest.mark.parametrize(
    ("name", "second", "logits"),
    [
        ("BertForPreTraining", "next_sentence_label", "seq_relationship_logits"),
        ("AlbertForPreTraining", "sentence_order_label", "sop_logits"),
    ],
)
def test_one_of_two_pretraining_labels_gives_its_own_loss(
    name: str, second: str, logits: str
) -> None:
    model = tiny(name)
    (inputs,) = batches(model, ["right"])
    theirs = observe_theirs(hugging_face(model), inputs)
    words = F.cross_entropy(
        theirs["prediction_logits"].flatten(0, 1), inputs.labels["labels"].flatten()
    )
    pairs = F.cross_entropy(theirs[logits], inputs.labels[second])
    for label, loss in {"labels": words, second: pairs}.items():
        one = dataclasses.replace(inputs, labels={label: inputs.labels[label]})
        for call in ("explicit", "padded", "packed"):
            assert abs(observe_ours(model, one, call)["loss"] - loss) < 1e-10
    assert abs(theirs["loss"] - words - pairs) < 1e-10


# --- half precision -----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("stem", STEMS.values())
def test_half_precision_is_no_worse_than_theirs(stem: str, dtype: torch.dtype) -> None:
    """Each library's error against its own float32, on the same weights."""
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4}
    model = tiny(f"{stem}ForMaskedLM", torch.float32, **sizes)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_((parameter / 2).to(dtype))  # exact in both precisions
    half = tiny(f"{stem}ForMaskedLM", torch.float32, **sizes).to(dtype)
    half.load_state_dict(model.state_dict())
    theirs, their_half = hugging_face(model), hugging_face(half)
    for inputs in batches(model):
        exact, rounded = observe_theirs(theirs, inputs), observe_theirs(their_half, inputs)
        for call in ("explicit", "padded"):
            own, own_half = observe_ours(model, inputs, call), observe_ours(half, inputs, call)
            for module in ("layer 3", "logits"):
                error = _rms(own_half[module], own[module])
                assert error <= 1.5 * _rms(rounded[module], exact[module]), (module, call)
            chosen = own["logits"][inputs.attended].topk(2)
            clear = chosen.values.diff().abs()[:, 0] > 0.05  # closer ones may swap
            agree = own_half["logits"][inputs.attended].argmax(-1) == chosen.indices[:, 0]
            assert agree[clear].float().mean() >= 0.995


def _rms(values: Tensor, exact: Tensor) -> float:
    return float((values.double() - exact.double()).square().mean().sqrt())


# --- can the check fail? ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL_CLASSES)
def test_a_changed_parameter_is_noticed(name: str) -> None:
    """Every parameter in turn. Key biases shift all scores of a query alike and change nothing."""
    model = tiny(name)
    (inputs,) = batches(model, ["right"])
    expected = observe_theirs(hugging_face(model), inputs)

    def same() -> bool:
        return all(row.passed for row in rows_of(model, expected, inputs, calls=["padded"]))

    for own, parameter in model.named_parameters():
        before = parameter.detach().clone()
        with torch.no_grad():
            parameter.add_(torch.randn_like(parameter), alpha=1e-4)
        assert same() == own.endswith("key.bias"), own
        with torch.no_grad():
            parameter.copy_(before)
    assert same()


def _one_weight(model: PretrainedModel) -> None:
    model.encoder.layers[1].feed_forward.output.weight[3, 4] += 1e-3


def _swapped_biases(model: PretrainedModel) -> None:
    attention = model.encoder.layers[1].attention
    attention.query.bias, attention.value.bias = attention.value.bias, attention.query.bias


def _swapped_norms(model: PretrainedModel) -> None:
    layer = model.encoder.layers[1]
    layer.attention_norm, layer.feed_forward_norm = layer.feed_forward_norm, layer.attention_norm


def _swapped_layers(model: PretrainedModel) -> None:
    layers = model.encoder.layers
    layers[1], layers[2] = layers[2], layers[1]


def _no_token_types(model: PretrainedModel) -> None:
    model.encoder.embeddings.token_type = None


def _head_bias(model: PretrainedModel) -> None:
    model.masked_lm_head.bias[5] += 1e-3


@pytest.mark.parametrize(
    ("damage", "module"),
    [
        (_one_weight, "layer 1"),
        (_swapped_biases, "layer 1 maps"),
        (_swapped_norms, "layer 1"),
        (_swapped_layers, "layer 1 maps"),
        (_no_token_types, "embeddings"),
        (_head_bias, "logits"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_first_divergence_is_named(
    damage: Callable[[Any], None], module: str, dtype: torch.dtype
) -> None:
    model = tiny("BertForMaskedLM", dtype)
    theirs = hugging_face(model)
    with torch.no_grad():
        damage(model)
    report = compare(model, theirs, batches(model))
    assert not report.passed
    assert report.first_divergence is not None
    assert report.first_divergence.module == module
    assert f"BertForMaskedLM, {module}: " in str(report)
    assert "DIFFERENT in " in str(report)


def test_states_at_unattended_positions_must_be_zero() -> None:
    """Nothing is masked out of the comparison itself."""
    model = tiny("BertModel")
    (inputs,) = batches(model, ["right"])
    found = observe_ours(model, inputs, "padded")["layer 2"]
    assert (found[~inputs.attended] == 0).all()
    found[~inputs.attended] = 1e-3
    theirs = observe_theirs(hugging_face(model), inputs)["layer 2"]
    assert max_difference(found, theirs) == 1e-3


def test_no_number_and_no_tensor_are_differences() -> None:
    ones = torch.ones(2, 3)
    assert max_difference(ones, ones) == 0
    assert max_difference(ones, ones[:1]) == math.inf
    assert max_difference(ones, ones * math.nan) == math.inf
    assert max_difference(ones * math.inf, ones * math.inf) == 0
    assert max_difference(ones * math.inf, ones) == math.inf
    model = tiny("BertModel")
    theirs = hugging_face(model)
    model.pooler = None
    report = compare(model, theirs, batches(model, ["none"]))
    assert {row.module for row in report.rows if not row.passed} == {"pooler_output"}
    assert not ParityReport("nothing", "nothing").passed


@pytest.mark.parametrize("mask", MASKS)
def test_ragged_inputs_are_what_they_say(mask: str) -> None:
    inputs = ragged_inputs(minilm.BertConfig(), mask, seed=3)
    again = ragged_inputs(minilm.BertConfig(), mask, seed=3)
    assert torch.equal(inputs.input_ids, again.input_ids)
    attended = inputs.attended
    assert bool(attended.all()) == (mask == "none")
    assert bool(attended[:, 0].all()) == (mask in ("none", "right", "holes"))
    assert bool(attended.any(1).all()) == (mask != "empty row")
    steps = attended.int().diff(dim=1)
    assert bool((steps == 1).any()) == (mask in ("left", "holes"))
    assert bool((steps == -1).any()) == (mask in ("right", "holes", "empty row"))
    assert (inputs.attention_mask is None) == (mask == "none")
    with pytest.raises(InputError, match="'diagonal': expected one of none, right"):
        ragged_inputs(minilm.BertConfig(), "diagonal")
