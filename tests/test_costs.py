"""Counts by formula against models that are really built, saved and run, and against torch's own
counter of operations."""

from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import minilm
from minilm.config import EncoderConfig
from minilm.costs.counting import HEADS, Cost, Part
from minilm.costs.presets import PUBLISHED, find_config
from minilm.data.batches import TokenBatch
from minilm.errors import InputError
from minilm.learners.masked_lm import MaskedLMLearner
from minilm.learners.pairs import PretrainingLearner
from minilm.loader import CLASSES, STEMS
from minilm.training.optimiser import build_optimiser
from minilm.training.settings import Optimiser, TrainingSettings
from tiny import ALL_CLASSES, SIZES, tiny

NAMES = ["BertModel", "DistilBertModel", "AlbertModel"]
HEAD_OF = {
    f"{stem}{end}": head
    for stem in STEMS.values()
    for head, end in HEADS.items()
    if f"{stem}{end}" in CLASSES
}
SHARING = ["all", "attention", "feed_forward", "none", 3]

# facts of the papers' code and the hub: with pooler, for masked LM, for pretraining
BERT = {
    "bert-base-uncased": (109_482_240, 109_514_298, 110_106_428),
    "bert-base-cased": (108_310_272, 108_340_804, 108_932_934),
    "bert-large-uncased": (335_141_888, 335_174_458, 336_226_108),
    "bert-large-cased": (333_579_264, 333_610_308, 334_661_958),
    "bert-base-multilingual-cased": (177_853_440, 177_974_523, 178_566_653),
    "all-MiniLM-L6-v2": (22_713_216, None, None),
    "MiniLM-L12-H384": (33_360_000, None, None),
    "bert-tiny": (4_385_920, None, None),
    "bert-small": (28_763_648, None, None),
}
ALBERT_COUNTS = {
    "base": (11_683_584, 11_221_680, 11_813_810),
    "large": (17_683_968, 16_795_824, 17_847_474),
    "xlarge": (58_724_864, 54_821_040, 59_021_490),
    "xxlarge": (222_595_584, 206_368_944, 223_158_450),
}
ALBERT = {
    **{f"albert-{size}-v{v}": counts for size, counts in ALBERT_COUNTS.items() for v in (1, 2)},
    "paraphrase-albert-small-v2": (11_683_584, None, None),
    "albert-small-v2": (11_683_584, None, None),
    "paraphrase-albert-base-v2": (11_683_584, None, None),
}
# plain, for masked LM, for two classes, for questions
DISTILBERT = {
    "distilbert-base-uncased": (66_362_880, 66_985_530, 66_955_010, 66_364_418),
    "distilbert-base-cased": (65_190_912, 65_812_036, 65_783_042, 65_192_450),
    "distilbert-base-multilingual-cased": (134_734_080, 135_445_755, 135_326_210, 134_735_618),
    "distilbert-base-uncased-distilled-squad": (66_362_880, 66_985_530, 66_955_010, 66_364_418),
    "distilbert-base-cased-distilled-squad": (65_190_912, 65_812_036, 65_783_042, 65_192_450),
    "distilbert-base-uncased-finetuned-sst-2-english": (66_362_880, None, 66_955_010, None),
    "distilbert-base-german-cased": (66_808_320, 67_431_550, None, None),
}
PRETRAINING_HEADS = ("none", "masked-lm", "pretraining")
TASK_HEADS = ("none", "masked-lm", "sequence-classification", "question-answering")
COUNTS = [
    (name, head, count)
    for table, heads in ((BERT | ALBERT, PRETRAINING_HEADS), (DISTILBERT, TASK_HEADS))
    for name, counts in table.items()
    for head, count in zip(heads, counts, strict=True)
    if count is not None
]


# --- parameters ---


@pytest.mark.parametrize(("name", "head", "parameters"), COUNTS)
def test_published_counts(name: str, head: str, parameters: int) -> None:
    assert minilm.cost(find_config(name), head=head).parameters == parameters


def test_every_published_name_has_a_count() -> None:
    counted = {name for name, _, _ in COUNTS} | {"MiniLM-L12-H384-uncased"}
    assert counted == {name.rpartition("/")[2] for name in PUBLISHED}


@pytest.mark.parametrize("name", ALL_CLASSES)
def test_parameters_are_the_models(name: str) -> None:
    model = tiny(name)
    assert minilm.cost(model.config, head=HEAD_OF[name]).parameters == model.num_parameters()


@pytest.mark.parametrize("inner", [1, 2])
@pytest.mark.parametrize("sharing", SHARING)
def test_sharing(sharing: str | int, inner: int) -> None:
    config = minilm.AlbertConfig(**SIZES, embedding_size=8, inner_group_num=inner)
    config = config.with_sharing(sharing)
    found, shared, apart = (
        minilm.cost(each)
        for each in (config, config.with_sharing("all"), config.with_sharing("none"))
    )
    assert found.parameters == minilm.AlbertModel(config).num_parameters()
    assert found.unshared == apart.parameters
    assert found.flops == shared.flops
    assert found.total.activation_bytes == shared.total.activation_bytes


# --- operations ---


@pytest.mark.parametrize(
    "name", [name for name in ALL_CLASSES if not name.endswith("MultipleChoice")]
)
@pytest.mark.parametrize("length", [4, 20])
def test_operations_are_those_that_torch_counts(name: str, length: int) -> None:
    """Attention spelled out, as the counter does not look into the fused kernel."""
    model = tiny(name, torch.float32)
    found = minilm.cost(model.config, length=length, head=HEAD_OF[name])
    expected = found.flops
    if "masked-LM head" in found.parts:  # here it works at all tokens
        expected += round(found.parts["masked-LM head"].flops * (1 / 0.15 - 1))
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        model(torch.ones(1, length, dtype=torch.int64))
    counted = counter.get_total_flops()
    assert counted == pytest.approx(expected * length, abs=6 * length)


# --- files ---


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["BertForPreTraining", "DistilBertForMaskedLM", "AlbertModel"])
def test_files_have_the_size(name: str, dtype: str, tmp_path: Path) -> None:
    model = tiny(name, getattr(torch, dtype), hidden_size=64, intermediate_size=128)
    check_file(model, HEAD_OF[name], dtype, tmp_path)


@pytest.mark.parametrize("sharing", SHARING)
def test_files_hold_copies_of_what_is_shared_in_part(sharing: str | int, tmp_path: Path) -> None:
    config = minilm.AlbertConfig(**{**SIZES, "hidden_size": 64, "intermediate_size": 128})
    check_file(minilm.AlbertModel(config.with_sharing(sharing)), "none", "float32", tmp_path)


def check_file(model: Any, head: str, dtype: str, directory: Path) -> None:
    model.save_pretrained(directory)
    found = minilm.cost(model.config, head=head, dtype=dtype).total.file_bytes
    assert found == pytest.approx((directory / "model.safetensors").stat().st_size, rel=0.03)


# --- memory in training ---


@pytest.mark.parametrize("name", ["BertModel", "AlbertModel"])
@pytest.mark.parametrize("optimiser", get_args(Optimiser))
def test_gradients_and_moments(name: str, optimiser: Any) -> None:
    model = tiny(name, torch.float32)
    updater = build_optimiser(model, TrainingSettings(steps=1, optimiser=optimiser))
    model(torch.ones(2, 5, dtype=torch.int64)).pooler_output.sum().backward()
    updater.step()
    found = minilm.cost(model.config, optimiser=optimiser).total
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert found.gradient_bytes == sum(gradient.nbytes for gradient in gradients)
    moments = [value for state in updater.state.values() for value in state.values()]
    counted = sum(value.nbytes for value in moments if value.dim() > 0)
    assert found.optimiser_bytes == counted


def kept_for_backward(module: nn.Module, run: Callable[[], Any]) -> int:
    """Bytes of the storages that autograd keeps, without the parameters."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
    storages: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage  # held, so that its address is not used again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = run()
    assert result is not None
    return sum(storage.nbytes() for storage in storages.values())


LENGTH, BATCH = 16, 5
LENGTHS = torch.full((BATCH,), LENGTH)
IDS = torch.ones(LENGTH * BATCH, dtype=torch.int64)
TYPES = torch.zeros_like(IDS)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("BertModel", {}),
        ("BertModel", {"attention_probs_dropout_prob": 0.0}),
        ("BertModel", {"hidden_dropout_prob": 0.0, "hidden_act": "relu"}),
        ("BertModel", {"hidden_act": "gelu_10"}),
        ("BertModel", {"hidden_act": "silu", "num_attention_heads": 2}),
        ("DistilBertModel", {}),
        ("DistilBertModel", {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}),
        ("AlbertModel", {}),
        ("AlbertModel", {"num_hidden_groups": 3, "inner_group_num": 2}),
        ("AlbertModel", {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}),
        ("AlbertModel", {"hidden_dropout_prob": 0.1, "feed_forward_dropout": True}),
    ],
)
def test_activations_of_an_encoder_are_counted_to_the_byte(
    name: str, changes: dict[str, Any]
) -> None:
    model = tiny(name, torch.float32, **changes).train()
    measured = kept_for_backward(model, lambda: model(IDS, token_type_ids=TYPES, lengths=LENGTHS))
    found = minilm.cost(model.config, length=LENGTH, batch=BATCH)
    assert found.total.activation_bytes == measured


@pytest.mark.parametrize("name", [name for name in ALL_CLASSES if name not in NAMES])
def test_activations_with_a_head(name: str) -> None:
    """Within 1 %: labels and what a loss keeps of a few logits are left out."""
    model = tiny(name, torch.float32).train()
    head = HEAD_OF[name]
    run = {
        "masked-lm": learning(MaskedLMLearner, model),
        "pretraining": learning(lambda model: PretrainingLearner(model, "sentence_order"), model),
    }.get(head) or answering(model, head)
    found = minilm.cost(model.config, length=LENGTH, batch=BATCH, head=head)
    measured = kept_for_backward(model, run)
    assert found.total.activation_bytes == pytest.approx(measured, rel=0.01)


def learning(make: Callable[[Any], nn.Module], model: nn.Module) -> Callable[[], Any]:
    def run() -> Any:
        labels = torch.full_like(IDS, -100)
        labels[: round(0.15 * len(IDS))] = 3
        pairs = torch.zeros(BATCH, dtype=torch.int64)
        batch = TokenBatch(np.arange(BATCH), IDS, LENGTHS, labels, TYPES, pairs)
        learner = make(model).train()
        return learner(batch, learner.counts(batch))["loss"]

    return run


def answering(model: nn.Module, head: str) -> Callable[[], Any]:
    labels = torch.zeros(len(IDS) if head == "token-classification" else BATCH, dtype=torch.int64)
    targets = {"labels": labels}
    lengths = LENGTHS
    if head == "question-answering":
        targets = {"start_positions": labels, "end_positions": labels.clone()}
    if head == "multiple-choice":
        targets, lengths = {"labels": labels[:1]}, LENGTHS[None]
    return lambda: model(IDS, token_type_ids=TYPES, lengths=lengths, **targets).loss


# --- the table ---


def test_the_table_adds_up() -> None:
    found = minilm.cost(minilm.AlbertConfig(), length=64, head="pretraining")
    assert isinstance(found, Cost)
    assert (found.length, found.batch) == (64, 32)
    assert isinstance(found.total, Part)
    *rows, last = str(found).splitlines()[2:]
    assert len(rows) == len(found.parts)
    columns = [[int(row.split()[i].replace(",", "")) for row in rows] for i in (-7, -6)]
    assert [f"{sum(column):,}" for column in columns] == last.split()[1:3]
    assert last.split()[3:] == [f"{value / 1e6:,.2f}" for value in astuple(found.total)[2:]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"length": 0}, "length is 0"),
        ({"batch": 0}, "batch is 0"),
        ({"config": EncoderConfig()}, "is a EncoderConfig"),
        ({"head": "lm"}, "head is 'lm': for a Bert expected one of none, masked-lm, pretraining"),
        ({"config": minilm.DistilBertConfig(), "head": "pretraining"}, "for a DistilBert expected"),
        ({"dtype": "int4"}, "dtype is 'int4'"),
        ({"optimiser": "sgd"}, "optimiser is 'sgd': expected one of adamw, lamb, muon"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        minilm.cost(**{"config": minilm.BertConfig(), **arguments})
