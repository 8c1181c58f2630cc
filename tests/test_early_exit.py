"""Early exit: what each exit answers, who leaves when, and that a batch does not matter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

import minilm
from minilm.blocks.layout import Packed, Padded
from minilm.errors import CheckpointError, InputError
from minilm.loader import CLASSES
from minilm.models.early_exit import (
    EarlyExit,
    EveryExit,
    ExitHeads,
    ExitRule,
    answer_kind,
    confidence,
    same_answer,
)
from minilm.models.encoder import EncoderModel
from tiny import packed, ragged, tiny

STEMS = ("Albert", "Bert", "DistilBert")
LAYERS = 5
ROWS = (7, 3, 1, 7, 5, 3, 9, 2)


def made(stem: str, **changes: Any) -> tuple[Any, ExitHeads]:
    """A tiny classifier of three classes in float64, and its exits, all drawn anew."""
    sizes = {"num_labels": 3, "num_hidden_layers": LAYERS, **changes}
    model = tiny(f"{stem}ForSequenceClassification", **sizes)
    heads = ExitHeads(model).eval()
    for parameter in heads.parameters():
        torch.nn.init.normal_(parameter, std=0.8)
    with torch.no_grad():  # so that what a text says matters more than biases
        for name, parameter in model.named_parameters():
            if "bias" in name:
                parameter.mul_(0.1)
    return model, heads


def batch_for(stem: str, rows: tuple[int, ...] = ROWS) -> dict[str, Tensor]:
    batch = ragged(rows)
    if stem == "DistilBert":
        batch.pop("token_type_ids")
    return batch


def every(model: Any, heads: ExitHeads, **batch: Tensor) -> Tensor:
    with torch.no_grad():
        return EveryExit(model, heads)(**batch).logits


# --- what an exit answers ---


@pytest.mark.parametrize("stem", STEMS)
@pytest.mark.parametrize("depth", range(1, LAYERS + 1))
def test_an_exit_is_the_model_cut_at_its_depth(stem: str, depth: int, tmp_path: Path) -> None:
    """The same checkpoint loaded with fewer layers, its classifier replaced by that exit's."""
    model, heads = made(stem)
    batch = batch_for(stem)
    model.save_pretrained(tmp_path)
    cut = CLASSES[f"{stem}ForSequenceClassification"].from_pretrained(
        tmp_path, num_hidden_layers=depth, dtype=torch.float64
    )
    if depth < LAYERS:
        cut.classifier.load_state_dict(heads.classifiers[depth - 1].state_dict())  # type: ignore[union-attr]
    with torch.no_grad():
        wanted = cut(**batch).logits
    found = every(model, heads, **batch)
    assert found.shape == (len(ROWS), LAYERS, 3)
    torch.testing.assert_close(found[:, depth - 1], wanted, rtol=0, atol=1e-10)
    one = EarlyExit(model, heads, ExitRule(depth=depth))(**batch)
    torch.testing.assert_close(one.logits, wanted, rtol=0, atol=1e-10)
    assert one.applications.tolist() == [depth] * len(ROWS)
    # a neighbour's answer is another one: the comparison can fail
    other = found[:, depth % LAYERS]
    assert (other - wanted).abs().max() > 1e-3


@pytest.mark.parametrize("stem", STEMS)
@pytest.mark.parametrize("layout", ["auto", "padded", "packed"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_where_no_text_leaves_the_answer_is_the_models_bit_for_bit(
    stem: str, layout: Any, dtype: torch.dtype
) -> None:
    model, heads = made(stem)
    model.to(dtype=dtype)
    heads.to(dtype=dtype)
    model.layout = layout
    batch = batch_for(stem)
    with torch.no_grad():
        wanted = model(**batch).logits
    rules = (ExitRule(threshold=1.0), ExitRule(patience=LAYERS - 1), ExitRule(depth=LAYERS))
    for rule in rules:
        found = EarlyExit(model, heads, rule)(**batch)
        assert torch.equal(found.logits, wanted)
        assert found.applications.tolist() == [LAYERS] * len(ROWS)
    with torch.no_grad():
        heads.classifiers[0].weight.mul_(100)  # surer than any number below 1
    assert EarlyExit(model, heads, ExitRule(threshold=0.999))(**batch).applications.min() == 1
    assert torch.equal(EarlyExit(model, heads, rules[0])(**batch).logits, wanted)


@pytest.mark.parametrize("stem", STEMS)
@pytest.mark.parametrize("layout", ["auto", "padded", "packed"])
@pytest.mark.parametrize("rows", [ROWS, (4, 4, 4)])
def test_all_texts_may_leave_at_the_first_exit(
    stem: str, layout: Any, rows: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, heads = made(stem)
    model.layout = layout
    batch = batch_for(stem, rows)
    wanted = every(model, heads, **batch)[:, 0]
    calls: list[int] = []
    for number, layer in enumerate(dict.fromkeys(model.base.virtual_layers())):
        layer.register_forward_hook(lambda *_, number=number: calls.append(number))
    found = EarlyExit(model, heads, ExitRule(threshold=0.0))(**batch)
    assert found.applications.tolist() == [1] * len(rows)
    torch.testing.assert_close(found.logits, wanted, rtol=0, atol=1e-10)
    assert calls == [0]  # nothing more was computed


# --- who leaves when ---


def by_hand(logits: Tensor, rule: ExitRule) -> list[int]:
    """After how many applications each text leaves, one text at a time."""
    found = []
    for answers in logits:  # (L, C)
        agreed = 0
        for depth in range(1, len(answers) + 1):
            if depth > 1:
                same = answers[depth - 1].argmax() == answers[depth - 2].argmax()
                agreed = agreed + 1 if same else 0
            sure = float(answers[depth - 1].softmax(-1).max())
            leaves = rule.threshold is not None and sure > rule.threshold
            leaves |= rule.patience is not None and agreed >= rule.patience
            if leaves or depth == len(answers):
                found.append(depth)
                break
    return found


@pytest.mark.parametrize("stem", STEMS)
@pytest.mark.parametrize(
    "rule",
    [
        *(ExitRule(threshold=threshold) for threshold in (0.5, 0.7, 0.8, 0.95)),
        *(ExitRule(patience=patience) for patience in (1, 2, 3)),
    ],
)
def test_texts_leave_where_the_rule_says(stem: str, rule: ExitRule) -> None:
    model, heads = made(stem)
    rows = tuple(1 + n % 9 for n in range(24))
    batch = batch_for(stem, rows)
    answers = every(model, heads, **batch)
    found = EarlyExit(model, heads, rule)(**batch)
    wanted = by_hand(answers, rule)
    assert found.applications.tolist() == wanted
    of_exit = answers[torch.arange(len(rows)), torch.tensor(wanted) - 1]
    torch.testing.assert_close(found.logits, of_exit, rtol=0, atol=1e-10)
    if rule.patience is not None:
        assert min(wanted) >= 1 + rule.patience


def test_texts_of_one_batch_leave_at_different_depths() -> None:
    """Otherwise the tests above would show nothing of packing what is left."""
    depths = set()
    for stem in STEMS:
        model, heads = made(stem)
        batch = batch_for(stem, tuple(1 + n % 9 for n in range(24)))
        for rule in (ExitRule(threshold=0.8), ExitRule(patience=2)):
            found = set(EarlyExit(model, heads, rule)(**batch).applications.tolist())
            depths.add(len(found))
    assert max(depths) >= 3


@pytest.mark.parametrize("stem", STEMS)
def test_the_answer_for_a_text_does_not_depend_on_its_batch(stem: str) -> None:
    model, heads = made(stem)
    early = EarlyExit(model, heads, ExitRule(threshold=0.8))
    batch = batch_for(stem)
    together = early(**batch)
    line = packed(batch)
    lengths = line.pop("lengths")
    as_line = early(**line, lengths=lengths)
    torch.testing.assert_close(as_line.logits, together.logits, rtol=0, atol=1e-10)
    order = torch.randperm(len(ROWS), generator=torch.Generator().manual_seed(1))
    shuffled = early(**{name: values[order] for name, values in batch.items()})
    assert shuffled.applications.tolist() == together.applications[order].tolist()
    torch.testing.assert_close(shuffled.logits, together.logits[order], rtol=0, atol=1e-10)
    for row, length in enumerate(ROWS):
        alone = early(**{name: values[row : row + 1, :length] for name, values in batch.items()})
        assert alone.applications.tolist() == [int(together.applications[row])]
        torch.testing.assert_close(alone.logits[0], together.logits[row], rtol=0, atol=1e-10)


def test_nothing_is_computed_for_texts_that_have_left() -> None:
    model, heads = made("Bert")
    batch = batch_for("Bert", tuple(1 + n % 9 for n in range(24)))
    tokens: list[int] = []
    for layer in list(model.base.layers)[:-1]:  # the last one gives first tokens alone
        layer.register_forward_hook(lambda *found: tokens.append(len(found[-1])))
    found = EarlyExit(model, heads, ExitRule(threshold=0.8))(**batch)
    lengths = batch["attention_mask"].sum(1)
    wanted = [int(lengths[found.applications > depth].sum()) for depth in range(LAYERS - 1)]
    assert tokens == wanted[: len(tokens)]
    assert wanted[0] == int(lengths.sum()) > wanted[2] > 0


def test_inner_layers_of_a_group_are_applications_of_their_own() -> None:
    model, heads = made("Albert", num_hidden_layers=3, inner_group_num=2, num_hidden_groups=1)
    assert len(heads.classifiers) == 5
    batch = batch_for("Albert")
    answers = every(model, heads, **batch)
    found = EarlyExit(model, heads, ExitRule(depth=3))(**batch)
    torch.testing.assert_close(found.logits, answers[:, 2], rtol=0, atol=1e-10)


def test_gradients_reach_every_exit_and_the_layers_below() -> None:
    dropouts = ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout")
    model, heads = made("Albert", **dict.fromkeys(dropouts, 0.0))
    batch = batch_for("Albert")
    gradients = []
    for checkpointing in (False, True):
        model.base.gradient_checkpointing = checkpointing
        model.train()
        model.zero_grad()
        heads.zero_grad()
        EveryExit(model, heads)(**batch).logits[:, 1].sum().backward()
        got = {name: p.grad for name, p in heads.named_parameters()}
        assert got["classifiers.1.weight"].abs().max() > 0  # type: ignore[union-attr]
        assert got["classifiers.0.weight"] is None or got["classifiers.0.weight"].abs().max() == 0
        gradients.append(model.base.groups[0].layers[0].attention.query.weight.grad.clone())
    assert gradients[0].abs().max() > 0
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0, atol=1e-12)


# --- rules ---


@pytest.mark.parametrize(
    ("problem", "labels", "kind"),
    [
        (None, 3, "classes"),
        (None, 1, "value"),
        ("regression", 1, "value"),
        ("single_label_classification", 2, "classes"),
        ("multi_label_classification", 3, "independent"),
    ],
)
def test_what_a_model_answers(problem: str | None, labels: int, kind: str) -> None:
    config = minilm.BertConfig(num_labels=labels, problem_type=problem)
    assert answer_kind(config) == kind


def test_confidence_and_agreement_of_each_kind() -> None:
    logits = torch.tensor([[0.0, 2.0, -1.0], [3.0, -3.0, 0.5]])
    likeliest = logits.softmax(-1).max(-1).values
    torch.testing.assert_close(confidence("classes", logits), likeliest)
    least = torch.tensor([0.5, torch.sigmoid(torch.tensor(0.5))])
    torch.testing.assert_close(confidence("independent", logits), least)
    assert confidence("classes", logits.half()).dtype is torch.float32
    other = torch.tensor([[9.0, 10.0, -1.0], [-3.0, 3.0, 0.5]])
    assert same_answer("classes", logits, other).tolist() == [True, False]
    flipped = torch.tensor([[-1.0, 1.0, -9.0], [1.0, -1.0, -0.1]])
    assert same_answer("independent", logits, flipped).tolist() == [True, False]
    one, near = torch.tensor([[1.0], [1.0]]), torch.tensor([[1.09], [1.1]])
    assert same_answer("value", one, near, 0.1).tolist() == [True, False]


def test_patience_of_numbers_and_of_several_labels() -> None:
    rows = tuple(1 + n % 9 for n in range(24))
    for problem, labels in (("regression", 1), ("multi_label_classification", 3)):
        model, heads = made("Albert", num_labels=labels, problem_type=problem)
        batch = batch_for("Albert", rows)
        answers = every(model, heads, **batch)
        tolerance = 0.8 if labels == 1 else None
        rule = ExitRule(patience=1, tolerance=tolerance)
        found = EarlyExit(model, heads, rule)(**batch).applications
        if labels == 1:
            same = (answers[:, 1:] - answers[:, :-1]).abs()[..., 0] < 0.8
        else:
            same = ((answers[:, 1:] > 0) == (answers[:, :-1] > 0)).all(-1)
        wanted = [
            next((depth + 2 for depth, agrees in enumerate(row) if agrees), LAYERS)
            for row in same.tolist()
        ]
        assert found.tolist() == wanted
        assert len(set(wanted)) > 1


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "exactly one of threshold, patience, depth"),
        ({"threshold": 0.5, "patience": 2}, "exactly one of"),
        ({"threshold": 1.1}, "exit_threshold is 1.1: expected a probability"),
        ({"threshold": float("nan")}, "exit_threshold is nan"),
        ({"patience": 0}, "exit_patience is 0: expected a whole number from 1"),
        ({"depth": 0}, "exit_depth is 0"),
        ({"patience": 1, "tolerance": 0.0}, "exit_tolerance is 0.0: expected a number above 0"),
    ],
)
def test_wrong_rules_are_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        ExitRule(**values)


def test_rules_that_do_not_suit_the_answers_are_refused() -> None:
    model, heads = made("Bert", num_labels=1)
    with pytest.raises(InputError, match="A number has no probability"):
        EarlyExit(model, heads, ExitRule(threshold=0.9))
    with pytest.raises(InputError, match="give exit_tolerance, too"):
        EarlyExit(model, heads, ExitRule(patience=2))
    model, heads = made("Bert")
    with pytest.raises(InputError, match="exit_tolerance is for models that predict a number"):
        EarlyExit(model, heads, ExitRule(patience=2, tolerance=0.1))


def test_calls_that_cannot_exit_are_refused() -> None:
    model, heads = made("Bert")
    early = EarlyExit(model, heads, ExitRule(threshold=0.9))
    batch = batch_for("Bert")
    model.config.output_hidden_states = True
    with pytest.raises(InputError, match="leave output_hidden_states and output_attentions out"):
        early(**batch)
    model.config.output_hidden_states = False
    with pytest.raises(InputError, match="cannot be recorded"):
        early(batch["input_ids"].to("meta"))
    model.train()
    with pytest.raises(InputError, match=r"call model.eval\(\) first"):
        early(**batch)
    with pytest.raises(InputError, match="BertForTokenClassification cannot exit early"):
        ExitHeads(tiny("BertForTokenClassification"))
    with pytest.raises(InputError, match="no exit before the last one"):
        ExitHeads(tiny("BertForSequenceClassification", num_hidden_layers=1))


# --- the file ---


def test_exits_are_stored_and_found_again(tmp_path: Path) -> None:
    model, heads = made("Albert")
    heads.write(tmp_path / "exits.safetensors")
    again = ExitHeads.read(tmp_path / "exits.safetensors", model)
    assert not again.training
    for name, value in heads.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)
    half = ExitHeads.read(tmp_path / "exits.safetensors", model.to(dtype=torch.bfloat16))
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_hidden_layers": LAYERS + 1}, r"lacks classifiers.4.bias: .* has 5 exits"),
        ({"num_hidden_layers": LAYERS - 1}, r"has 'classifiers.3.bias', but .* has 3 exits"),
        ({"num_labels": 2}, r"classifiers.0.bias has shape \(3,\) .* expected \(2,\)"),
        ({"hidden_size": 8}, r"classifiers.0.weight has shape \(3, 16\) .* expected \(3, 8\)"),
    ],
)
def test_exits_of_another_model_are_refused_by_name(
    change: dict[str, Any], words: str, tmp_path: Path
) -> None:
    _, heads = made("Albert")
    heads.write(tmp_path / "exits.safetensors")
    other, _ = made("Albert", **change)
    with pytest.raises(CheckpointError, match=words):
        ExitHeads.read(tmp_path / "exits.safetensors", other)


def test_damaged_exits_are_refused(tmp_path: Path) -> None:
    model, heads = made("Albert")
    path = tmp_path / "exits.safetensors"
    heads.write(path)
    tensors = load_file(path)
    tensors["classifiers.2.bias"][1] = float("nan")
    save_file(tensors, path)
    with pytest.raises(
        CheckpointError, match=r"classifiers.2.bias has numbers that are not finite"
    ):
        ExitHeads.read(path, model)
    tensors["classifiers.2.bias"] = torch.zeros(3, dtype=torch.int64)
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match="and dtype torch.int64, expected"):
        ExitHeads.read(path, model)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match="damaged"):
        ExitHeads.read(path, model)


# --- layouts ---


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=7),
    data=st.data(),
    from_mask=st.booleans(),
)
def test_a_layout_keeps_sequences_as_if_they_had_come_alone(
    lengths: list[int], data: st.DataObject, from_mask: bool
) -> None:
    numbers = data.draw(
        st.lists(st.sampled_from(range(len(lengths))), min_size=1, unique=True).map(sorted)
    )
    sequences = torch.tensor(numbers)
    token = torch.arange(max(lengths)) + 100 * torch.arange(len(lengths))[:, None]  # (B, S)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    if from_mask:
        layout = Packed.from_mask(mask, lengths)
        hidden = layout.pack(token)
    else:
        layout = Packed.from_lengths(lengths)
        hidden = layout.pack(token[mask])
    kept, states = layout.keep(sequences, hidden)
    alone = Packed.from_lengths([lengths[n] for n in numbers])
    assert (kept.lengths, kept.groups) == (alone.lengths, alone.groups)
    assert torch.equal(kept.sequence, alone.sequence)
    line = torch.cat([token[n, : lengths[n]] for n in numbers])
    assert torch.equal(kept.unpack(states), line)
    assert torch.equal(kept.first(states), 100 * sequences)
    rows, of_rows = Padded(mask).keep(sequences, token)
    assert torch.equal(of_rows, token[sequences])
    assert rows.mask is not None
    assert torch.equal(rows.mask, mask[sequences])


def test_the_encoder_returns_those_alone_that_went_on() -> None:
    encoder = tiny("BertModel")
    assert isinstance(encoder, EncoderModel)
    batch = batch_for("Bert")
    shown: list[int] = []

    def after(first: Tensor) -> Tensor | None:
        shown.append(len(first))
        return torch.tensor([0, 3, 4]) if len(shown) == 1 else None

    with torch.no_grad():
        wanted = encoder(**batch, reads="first").last_hidden_state
        found = encoder(**batch, reads="first", after=after)
    assert shown == [8, 3]  # of three layers, not after the last
    torch.testing.assert_close(found.last_hidden_state, wanted[[0, 3, 4]], rtol=0, atol=1e-12)
    with pytest.raises(InputError, match="Early exit needs only the first tokens"):
        encoder(**batch, after=after)
