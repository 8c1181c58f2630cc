"""What the models promise apart from parity: shapes, packing, tying, losses and clear errors."""

import copy
import inspect
import warnings

import pytest
import torch

import minilm
from minilm import ConfigError, InputError
from minilm.blocks import kernels
from minilm.blocks.feed_forward import FeedForward
from minilm.blocks.layout import Packed, Padded
from oracle import steady_dropout
from tiny import ALL_CLASSES, architecture, packed, ragged, tiny

TYPED = [name for name in ALL_CLASSES if architecture(name) != "distilbert"]
MASKED_LM = [name for name in ALL_CLASSES if name.endswith(("MaskedLM", "PreTraining"))]


def batch_for(name: str) -> dict[str, torch.Tensor]:
    batch = ragged()
    if architecture(name) == "distilbert":
        del batch["token_type_ids"]
    if name.endswith("MultipleChoice"):  # five questions with two choices each
        batch = {key: torch.stack([value, value.flip(0)], 1) for key, value in batch.items()}
    return batch


def packed_for(name: str, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    if not name.endswith("MultipleChoice"):
        return packed(batch)
    call = packed({key: value.flatten(0, 1) for key, value in batch.items()})
    return {**call, "lengths": call["lengths"].view(5, 2)}


# --- the two ways to call a model ---


@pytest.mark.parametrize("name", ALL_CLASSES)
def test_the_packed_call_equals_the_padded_call(name: str) -> None:
    model = tiny(name)
    batch = batch_for(name)
    mask = batch["attention_mask"].bool()
    rows = model(**batch, output_hidden_states=True)
    line = model(**packed_for(name, batch), output_hidden_states=True)
    assert rows.keys() == line.keys()
    for key in rows.keys():  # noqa: SIM118  (iterating an output gives values)
        for padded, other in zip(
            rows[key] if key == "hidden_states" else [rows[key]],
            line[key] if key == "hidden_states" else [line[key]],
            strict=True,
        ):
            if padded.shape[0] != other.shape[0]:  # one value a token
                kept = mask.flatten(0, -2)
                assert padded.shape[:2] == kept.shape
                padded = padded[kept]
            torch.testing.assert_close(padded, other, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ALL_CLASSES)
def test_a_mask_with_zeros_packs_and_maps_do_not(name: str) -> None:
    model = tiny(name)
    batch = batch_for(name)
    seen = []
    layers = model.base.virtual_layers()
    next(iter(layers)).register_forward_hook(lambda module, args, output: seen.append(args[1]))
    model(**batch)
    model(**batch, output_attentions=True)
    model(**{**batch, "attention_mask": torch.ones_like(batch["attention_mask"])})
    first_of_each_call = [seen[i] for i in range(0, len(seen), len(seen) // 3)]
    assert [type(layout) for layout in first_of_each_call] == [Packed, Padded, Padded]
    assert first_of_each_call[2].mask is None


def test_an_unattended_first_column_runs_padded_only_where_it_is_read() -> None:
    batch = ragged()
    left = {key: value.flip(1) for key, value in batch.items()}
    pooled = tiny("BertModel")
    unpooled = minilm.BertModel(pooled.config, add_pooling_layer=False).double().eval()
    unpooled.load_state_dict({k: v for k, v in pooled.state_dict().items() if "pooler" not in k})
    kinds = []
    for model in (pooled, unpooled):
        model.layers[0].register_forward_hook(lambda m, args, out: kinds.append(type(args[1])))
    one, other = pooled(**left), unpooled(**left)
    assert kinds == [Padded, Packed]
    assert other.pooler_output is None
    torch.testing.assert_close(one.last_hidden_state, other.last_hidden_state, rtol=0, atol=1e-10)
    assert not one.last_hidden_state[~left["attention_mask"].bool()].any()


@pytest.mark.parametrize("name", ["BertModel", "DistilBertModel", "AlbertModel"])
def test_padding_and_batch_order_do_not_matter(name: str) -> None:
    model = tiny(name, torch.float32)
    batch = ragged()
    del batch["token_type_ids"]
    states = model(**batch).last_hidden_state
    order = torch.tensor([3, 0, 4, 2, 1])
    shuffled = model(**{key: value[order] for key, value in batch.items()}).last_hidden_state
    torch.testing.assert_close(shuffled, states[order], rtol=0, atol=1e-5)
    wider = {key: torch.nn.functional.pad(value, (0, 9)) for key, value in batch.items()}
    torch.testing.assert_close(model(**wider).last_hidden_state[:, :7], states, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ALL_CLASSES)
def test_gradients_flow_to_every_parameter(name: str) -> None:
    model = tiny(name)
    outputs = model(**batch_for(name))
    sum(value[value.abs() < 1e9].square().sum() for value in outputs.to_tuple()).backward()
    idle = [key for key, value in model.named_parameters() if value.grad is None]
    assert idle == []


def test_word_vectors_replace_ids() -> None:
    for name in ("BertModel", "DistilBertModel", "AlbertModel"):
        model = tiny(name)
        batch = batch_for(name)
        expected = model(**batch).last_hidden_state
        vectors = model.get_input_embeddings()(batch.pop("input_ids"))
        torch.testing.assert_close(
            model(inputs_embeds=vectors, **batch).last_hidden_state, expected, rtol=0, atol=1e-10
        )


def test_position_ids_of_every_accepted_shape_agree() -> None:
    model = tiny("BertModel")
    batch = ragged()
    expected = model(**batch).last_hidden_state
    for position_ids in (torch.arange(7), torch.arange(7)[None], torch.arange(7).expand(5, 7)):
        states = model(**batch, position_ids=position_ids).last_hidden_state
        assert torch.equal(states, expected)
    moved = model(**batch, position_ids=torch.arange(7) + 1).last_hidden_state
    assert not torch.allclose(moved, expected)


# --- weights ---


@pytest.mark.parametrize("name", MASKED_LM)
def test_the_output_matrix_is_the_word_embedding_table(name: str) -> None:
    model = tiny(name)
    names = [key for key, value in model.named_parameters() if value.shape[:1] == (61,)]
    assert sorted(names) == ["encoder.embeddings.word.weight", "masked_lm_head.bias"]
    batch = batch_for(name)
    field = "logits" if name.endswith("MaskedLM") else "prediction_logits"

    def still_tied(model: minilm.BertForMaskedLM) -> None:
        seen = []
        hook = model.masked_lm_head.register_forward_hook(lambda m, args, out: seen.append(args[1]))
        before = model(**batch)[field]
        hook.remove()
        assert seen[0] is model.get_input_embeddings().weight
        with torch.no_grad():
            model.get_input_embeddings().weight[60] += 1.0  # no input holds id 60 below
        assert not torch.equal(model(**batch)[field][..., 60], before[..., 60])

    batch["input_ids"] = batch["input_ids"].clamp(max=59)
    still_tied(copy.deepcopy(model))
    still_tied(copy.deepcopy(model).to(torch.float32))
    trained = copy.deepcopy(model).train()
    optimiser = torch.optim.SGD(trained.parameters(), lr=0.1)
    trained(**batch)[field].square().mean().backward()
    optimiser.step()
    still_tied(trained.eval())
    with torch.device("meta"):
        empty = type(model)(model.config)
    empty.to_empty(device="cpu").double()
    empty.load_state_dict(model.state_dict())
    still_tied(empty.eval())


def test_deepcopy_of_a_copy_does_not_touch_the_original() -> None:
    model = tiny("AlbertForMaskedLM")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    clone = copy.deepcopy(model)
    for parameter in clone.parameters():
        parameter.data.zero_()
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("config", "name", "count"),
    [  # facts of the published models, see the tables of the papers and the hub
        (minilm.BertConfig(), "BertModel", 109_482_240),
        (minilm.BertConfig(), "BertForMaskedLM", 109_514_298),
        (minilm.BertConfig(), "BertForPreTraining", 110_106_428),
        (minilm.DistilBertConfig(), "DistilBertModel", 66_362_880),
        (minilm.DistilBertConfig(), "DistilBertForMaskedLM", 66_985_530),
        (minilm.DistilBertConfig(), "DistilBertForSequenceClassification", 66_955_010),
        (minilm.DistilBertConfig(), "DistilBertForQuestionAnswering", 66_364_418),
        (minilm.AlbertConfig(), "AlbertModel", 11_683_584),
        (minilm.AlbertConfig(), "AlbertForMaskedLM", 11_221_680),
        (minilm.AlbertConfig(), "AlbertForPreTraining", 11_813_810),
    ],
)
def test_published_parameter_counts(config: object, name: str, count: int) -> None:
    with torch.device("meta"):
        assert getattr(minilm, name)(config).num_parameters() == count


@pytest.mark.parametrize("groups", [1, 2, 3, 4, 5, 8, 12])
def test_albert_groups_follow_the_formula_of_hugging_face(groups: int) -> None:
    model = tiny("AlbertModel", num_hidden_layers=12, num_hidden_groups=groups)
    used = [list(model.groups).index(group) for group in model.groups]
    assert used == list(range(groups))
    order = [
        next(g for g, group in enumerate(model.groups) if layer in list(group.layers))
        for layer in model.virtual_layers()
    ]
    assert order == [int(i / (12 / groups)) for i in range(12)]


def test_the_group_formula_is_not_the_integer_one() -> None:
    model = tiny("AlbertModel", num_hidden_layers=18, num_hidden_groups=14)
    assert model.virtual_layers()[9] is model.groups[6].layers[0]
    assert 9 * 14 // 18 == 7


def test_albert_with_a_group_for_every_layer_is_bert() -> None:
    """Same layers, one after the other: only the embeddings' projection remains different."""
    albert = tiny("AlbertModel", num_hidden_groups=3, embedding_size=16, hidden_act="gelu")
    bert = tiny("BertModel")
    torch.nn.init.eye_(albert.embeddings.projection.weight)
    torch.nn.init.zeros_(albert.embeddings.projection.bias)
    state = {
        key.replace("layers.", "groups.").replace(".attention", ".layers.0.attention", 1)
        if key.startswith("layers.") and ".attention" in key
        else key.replace("layers.", "groups.").replace(".feed_", ".layers.0.feed_")
        if key.startswith("layers.")
        else key: value
        for key, value in bert.state_dict().items()
    }
    state["embeddings.projection.weight"] = albert.embeddings.projection.weight
    state["embeddings.projection.bias"] = albert.embeddings.projection.bias
    albert.load_state_dict(state)
    batch = ragged()
    torch.testing.assert_close(
        albert(**batch).pooler_output, bert(**batch).pooler_output, rtol=0, atol=1e-10
    )


@pytest.mark.parametrize("name", MASKED_LM)
@pytest.mark.parametrize("size", [40, 61, 80])
def test_the_vocabulary_can_be_resized(name: str, size: int) -> None:
    model = tiny(name)
    batch = batch_for(name)
    batch["input_ids"] = batch["input_ids"].clamp(max=39)
    before = model(**batch)[0]
    table = model.resize_token_embeddings(size)
    assert table is model.get_input_embeddings()
    assert (table.num_embeddings, model.config.vocab_size) == (size, size)
    assert model.encoder.config is model.config
    after = model(**batch)[0]
    assert after.shape[-1] == size
    kept = min(size, 61)
    torch.testing.assert_close(after[..., :kept], before[..., :kept], rtol=0, atol=1e-12)
    if size == 80:
        model(**{**batch, "input_ids": batch["input_ids"].clamp(max=0) + 79})


@pytest.mark.parametrize("name", ALL_CLASSES)
def test_gradient_checkpointing_changes_nothing_but_memory(name: str) -> None:
    model = tiny(name).train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    for layer in model.base.virtual_layers():
        layer.attention.dropout = 0.0
    batch = batch_for(name)
    calls = []
    next(iter(model.base.virtual_layers())).register_forward_pre_hook(lambda *_: calls.append(1))

    def gradients() -> tuple[int, list[torch.Tensor]]:
        calls.clear()
        loss = sum(v[v.abs() < 1e9].square().mean() for v in model(**batch).to_tuple())
        grads = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
        return len(calls), [g for g in grads if g is not None]

    once, plain = gradients()
    model.gradient_checkpointing_enable()
    twice, recomputed = gradients()
    assert twice == 2 * once
    model.gradient_checkpointing_disable()
    assert gradients()[0] == once
    for expected, found in zip(plain, recomputed, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


FIRST_TOKEN = [name for name in ALL_CLASSES if "SequenceClass" in name or "Choice" in name]


@pytest.mark.parametrize("name", FIRST_TOKEN)
@pytest.mark.parametrize("call", ["full rows", "holes", "packed", "checkpointing"])
def test_where_the_first_token_is_all_that_is_read_the_last_layer_computes_no_other(
    name: str, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hidden states ask for all of them: logits and gradients are the same, dropout included."""
    monkeypatch.setattr(kernels, "drop", steady_dropout)
    rates = {"hidden_dropout_prob": 0.11, "attention_probs_dropout_prob": 0.23}
    model = tiny(name, **rates).train()
    if call == "checkpointing":
        model.gradient_checkpointing_enable()
    batch = ragged((6, 6, 6) if call == "full rows" else (7, 3, 1, 7, 5, 2))
    if architecture(name) == "distilbert":
        del batch["token_type_ids"]
    if call == "holes":
        batch["attention_mask"][0, 2] = 0
    if call == "packed":
        batch = packed(batch)
    if "Choice" in name:
        batch = {
            key: value if value.dim() == 1 and key != "lengths" else value.unflatten(0, (-1, 3))
            for key, value in batch.items()
        }
    shapes = []
    *_, last = model.base.virtual_layers()
    last.register_forward_hook(lambda _, __, output: shapes.append(output.shape[:-1]))

    def observed(**options: bool) -> list[torch.Tensor]:
        shapes.clear()
        logits = model(**batch, **options).logits
        gradients = torch.autograd.grad(logits.sin().sum(), list(model.parameters()))
        return [logits, *gradients]

    found = observed()
    rows = 3 if call == "full rows" else 6
    assert shapes[-1] == (rows,)
    expected = observed(output_hidden_states=True)
    assert shapes[-1] != (rows,)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_fresh_weights_follow_hugging_face() -> None:
    torch.manual_seed(0)
    model = minilm.BertForMaskedLM(minilm.BertConfig(num_hidden_layers=1))
    word = model.get_input_embeddings().weight
    assert not word[0].any()
    assert word[1:].std().item() == pytest.approx(0.02, rel=0.01)
    assert word.abs().max() > 0.06
    for name, value in model.named_parameters():
        if name.endswith("bias"):
            assert not value.any(), name
        elif "norm" in name:
            assert bool((value == 1).all()), name


def test_truncated_normal_weights_are_an_option() -> None:
    torch.manual_seed(0)
    config = minilm.AlbertConfig(initializer="truncated_normal")
    model = minilm.AlbertModel(config)
    word = model.get_input_embeddings().weight
    assert word.abs().max().item() <= 0.04
    assert word[0].any()  # Google's code keeps the padding row
    assert word.std().item() == pytest.approx(0.0176, rel=0.01)


def test_sinusoidal_positions_are_a_start() -> None:
    config = minilm.DistilBertConfig(num_hidden_layers=1, sinusoidal_position_embeddings=True)
    for name in ("DistilBertModel", "DistilBertForMaskedLM"):
        table = getattr(minilm, name)(config).base.embeddings.position.weight
        assert table.requires_grad
        assert table[0, :4].tolist() == [0.0, 1.0, 0.0, 1.0]
        torch.testing.assert_close(table[3, 0], torch.tensor(3.0).sin())
        torch.testing.assert_close(table[3, 3], (3 / torch.tensor(10000.0) ** (2 / 768)).cos())


# --- losses ---


def test_a_pretraining_model_sums_the_losses_it_has_labels_for() -> None:
    batch = ragged()
    labels = torch.full_like(batch["input_ids"], -100)
    labels[0, 1], labels[4, 2] = 7, 8
    order = torch.tensor([0, 1, 0, 1, 1])
    for name, argument in (
        ("BertForPreTraining", "next_sentence_label"),
        ("AlbertForPreTraining", "sentence_order_label"),
    ):
        model = tiny(name)
        both = model(**batch, labels=labels, **{argument: order}).loss
        words = model(**batch, labels=labels).loss
        pairs = model(**batch, **{argument: order}).loss
        assert model(**batch).loss is None
        torch.testing.assert_close(both, words + pairs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", [n for n in ALL_CLASSES if n.endswith("TokenClassification")])
def test_no_labels_at_all_is_a_loss_of_zero(name: str) -> None:
    model = tiny(name)
    batch = batch_for(name)
    loss = model(**batch, labels=torch.full_like(batch["input_ids"], -100)).loss
    assert loss.item() == 0.0
    loss.backward()
    assert all(not p.grad.any() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", [n for n in ALL_CLASSES if n.endswith("QuestionAnswering")])
def test_spans_never_land_on_padding_and_their_loss_ignores_it(name: str) -> None:
    model = tiny(name)
    batch = batch_for(name)
    out = model(**batch)
    unattended = ~batch["attention_mask"].bool()
    assert bool((out.start_logits[unattended] == torch.finfo(torch.float64).min).all())
    start, end = torch.tensor([2, 0, 0, 6, 7]), torch.tensor([3, 2, 0, 6, 99])
    padded = model(**batch, start_positions=start, end_positions=end)
    line = model(**packed_for(name, batch), start_positions=start, end_positions=end)
    torch.testing.assert_close(padded.loss, line.loss, rtol=0, atol=1e-12)
    one = [
        torch.nn.functional.cross_entropy(logits[row, : int(n)][None], position[row][None])
        for logits, position in ((out.start_logits, start), (out.end_logits, end))
        for row, n in enumerate(batch["attention_mask"].sum(1))
        if position[row] < 7
    ]
    torch.testing.assert_close(padded.loss, (sum(one[:4]) / 4 + sum(one[4:]) / 4) / 2)
    with pytest.raises(InputError, match=r"start_positions\[1\] is 5, an unattended position"):
        model(**batch, start_positions=torch.tensor([0, 5, 0, 0, 0]), end_positions=end)


# --- arguments ---

IDS = torch.tensor([[5, 6, 7], [8, 9, 0]])
MASK = torch.tensor([[1, 1, 1], [1, 1, 0]])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "exactly one of input_ids and inputs_embeds"),
        ({"input_ids": IDS[0]}, r"input_ids has shape \(3,\): expected \(B, S\)"),
        ({"input_ids": IDS, "lengths": [3, 3]}, r"input_ids has shape \(2, 3\): expected \(T,\)"),
        ({"input_ids": IDS[:, :0]}, "there is no token"),
        ({"input_ids": IDS + 60}, "input_ids contains 69: vocab_size is 61"),
        ({"input_ids": IDS - 1}, "input_ids contains -1: vocab_size is 61"),
        ({"input_ids": IDS.float()}, r"inputs_embeds|input_ids has dtype torch.float32"),
        ({"input_ids": IDS, "attention_mask": MASK[:1]}, r"attention_mask has shape \(1, 3\)"),
        ({"input_ids": IDS, "attention_mask": MASK[None]}, r"attention_mask has shape \(1, 2, 3\)"),
        ({"input_ids": IDS, "attention_mask": MASK * 2}, "values other than 0 and 1"),
        ({"input_ids": IDS, "token_type_ids": MASK + 1}, "token_type_ids contains 2: type_vocab"),
        ({"input_ids": IDS, "token_type_ids": MASK[0]}, r"token_type_ids has shape \(3,\)"),
        ({"input_ids": IDS, "position_ids": torch.arange(4)}, r"position_ids has shape \(4,\)"),
        ({"input_ids": IDS, "position_ids": MASK * 20}, "position_ids contains 20: max_position"),
        ({"input_ids": IDS[0], "lengths": [2, 2]}, "adds up to 4, but the call has 3 tokens"),
        ({"input_ids": IDS[0], "lengths": [3, 0]}, "lengths contains 0"),
        ({"input_ids": IDS[0], "lengths": [1.5, 1.5]}, "lengths has dtype"),
        ({"input_ids": IDS[0], "lengths": [3], "attention_mask": MASK[0]}, "leave attention_mask"),
        ({"input_ids": IDS[0], "lengths": [3], "output_attentions": True}, "needs padded rows"),
        ({"input_ids": torch.ones(1, 21, dtype=torch.int64)}, "21 tokens in a row, max_position"),
        (
            {"input_ids": torch.ones(21, dtype=torch.int64), "lengths": [21]},
            "max_position_embeddings is 20",
        ),
        ({"inputs_embeds": torch.ones(2, 3, 5)}, "inputs_embeds has width 5"),
        ({"inputs_embeds": torch.ones(2, 3, 16).long()}, "inputs_embeds has dtype torch.int64"),
        (
            {"input_ids": IDS, "position_ids": torch.ones(3, 3).long()},
            r"position_ids has shape \(3,",
        ),
        ({"input_ids": IDS, "position_ids": torch.tensor(1)}, r"position_ids has shape \(\)"),
        ({"input_ids": IDS[0], "lengths": ["a"]}, "lengths is not a list of whole numbers"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        tiny("BertModel", torch.float32)(**arguments)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("BertForMaskedLM", {"labels": IDS[:1]}, r"labels has shape \(1, 3\)"),
        ("BertForMaskedLM", {"labels": IDS + 60}, "labels contains 65: expected 0 to 60"),
        ("BertForMaskedLM", {"labels": IDS.float()}, "expected .* int64"),
        ("BertForTokenClassification", {"labels": MASK}, "1 label other than -100 at unattended"),
        ("BertForTokenClassification", {"labels": MASK * 2}, "labels contains 2: expected 0 to 1"),
        ("BertForSequenceClassification", {"labels": torch.tensor([0, 2])}, "labels contains 2"),
        ("BertForSequenceClassification", {"labels": torch.tensor([0])}, r"shape \(1,\)"),
        ("BertForSequenceClassification", {"labels": torch.ones(2, 3)}, "multi_label"),
        ("BertForSequenceClassification", {"labels": torch.tensor([0, 1]).int()}, "int32"),
        ("BertForPreTraining", {"next_sentence_label": torch.tensor([0, 2])}, "next_sentence_labe"),
        ("AlbertForPreTraining", {"sentence_order_label": torch.tensor([3, 0])}, "contains 3"),
        ("BertForMultipleChoice", {}, r"Expected \(B, C, S\)"),
    ],
)
def test_wrong_labels_are_named(name: str, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        tiny(name)(input_ids=IDS, attention_mask=MASK, **arguments)


def test_distilbert_takes_token_types_and_warns() -> None:
    model = tiny("DistilBertForSequenceClassification")
    expected = model(input_ids=IDS, attention_mask=MASK).logits
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(input_ids=IDS, attention_mask=MASK, token_type_ids=torch.zeros_like(IDS))
    with pytest.warns(UserWarning, match="DistilBERT has no token types"):
        logits = model(input_ids=IDS, attention_mask=MASK, token_type_ids=MASK).logits
    assert torch.equal(logits, expected)


@pytest.mark.parametrize("name", ALL_CLASSES)
def test_every_forward_starts_with_the_arguments_of_hugging_face(name: str) -> None:
    parameters = list(inspect.signature(getattr(minilm, name).forward).parameters)
    first = ["input_ids", "attention_mask", "token_type_ids", "position_ids", "inputs_embeds"]
    assert parameters[1:6] == first
    if "For" in name:
        assert parameters[6] in ("labels", "start_positions")


@pytest.mark.parametrize("name", ["BertForMaskedLM", "DistilBertModel", "AlbertForMaskedLM"])
def test_models_can_be_exported(name: str) -> None:
    model = tiny(name, torch.float32)
    batch = batch_for(name)
    with torch.no_grad():
        program = torch.export.export(model, (), batch, strict=False)
        exported = program.module()(**batch)
        expected = model(**batch)
    mask = batch["attention_mask"].bool()
    torch.testing.assert_close(exported[0][mask], expected[0][mask], rtol=0, atol=1e-5)


# --- inference without gradients takes other paths on a CPU; they must not be special ---


@pytest.mark.parametrize("name", ["BertModel", "DistilBertModel", "AlbertModel"])
def test_the_feed_forward_block_works_in_blocks(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny(name)
    batch = batch_for(name)
    expected = model(**batch).last_hidden_state
    monkeypatch.setattr(kernels, "TOKENS_AT_ONCE", 4)
    calls = []
    for module in model.modules():
        if isinstance(module, FeedForward):
            module.output.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        states = model(**batch).last_hidden_state
    torch.testing.assert_close(states, expected, rtol=0, atol=1e-12)
    assert len(calls) == 3 * 6  # three layers, 23 tokens by four


def test_autocast_without_gradients() -> None:
    model = tiny("BertModel", torch.float32)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        states = model(**ragged()).last_hidden_state
    torch.testing.assert_close(
        states.float(), model(**ragged()).last_hidden_state, rtol=0, atol=0.3
    )


def test_compiled_gradients_of_a_row_that_attends_to_nothing() -> None:
    model = tiny("BertModel")
    batch = ragged()
    batch["attention_mask"][2] = 0

    def gradients(run: object) -> list[torch.Tensor]:
        return torch.autograd.grad(
            run(**batch).pooler_output.square().sum(), list(model.parameters()), allow_unused=True
        )

    compiled = torch.compile(model, backend="eager", fullgraph=True)
    for one, other in zip(gradients(model), gradients(compiled), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


def test_google_drops_out_what_the_feed_forward_block_adds() -> None:
    drops = {
        option: [
            layer.feed_forward_dropout.p
            for layer in tiny(
                "AlbertModel", hidden_dropout_prob=0.3, feed_forward_dropout=option
            ).virtual_layers()
        ]
        for option in (False, True)
    }
    assert drops == {False: [0.0] * 3, True: [0.3] * 3}


@pytest.mark.parametrize(
    ("name", "config"), [("BertModel", minilm.AlbertConfig()), ("AlbertForMaskedLM", {})]
)
def test_a_model_is_built_from_its_own_configuration(name: str, config: object) -> None:
    with pytest.raises(ConfigError, match=f"{name} is built from a .*Config, not from"):
        getattr(minilm, name)(config)
