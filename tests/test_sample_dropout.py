"""Dropout that belongs to samples: what it depends on, and what it does not."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import minilm
from minilm.blocks import kernels
from minilm.blocks.dropout import Dropout
from minilm.blocks.layout import Packed
from minilm.blocks.sample_dropout import current, entered, numbered, sample_dropout
from minilm.errors import InputError
from minilm.models.pretrained import PretrainedModel
from minilm.training.distributed import Processes
from minilm.training.settings import TrainingSettings
from minilm.training.steps import prepared_steps
from minilm.training.updates import sample_keys
from tiny import architecture, tiny
from toy import Cloud

LENGTHS = {3: 7, 8: 3, 11: 1, 12: 7, 40: 5, 41: 9}  # of samples
BASES = ["BertModel", "DistilBertModel", "AlbertModel"]
EXACT: dict[str, Any] = {"rtol": 0, "atol": 1e-12}


def model_of(class_name: str, **more: Any) -> PretrainedModel:
    dropout = {"hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.3}
    return tiny(class_name, **{**dropout, **more}).train()


def ids_of(sample: int) -> Tensor:
    generator = torch.Generator().manual_seed(sample)
    return torch.randint(1, 61, (LENGTHS[sample],), generator=generator)


def states(model: PretrainedModel, samples: Sequence[int], seed: int = 1) -> dict[int, Tensor]:
    """The last states of samples that are one batch, in train mode."""
    lengths = [LENGTHS[sample] for sample in samples]
    with sample_dropout(seed, samples, None):
        found = model(torch.cat([ids_of(sample) for sample in samples]), lengths=lengths)
    parts = found.last_hidden_state.split(lengths)
    return dict(zip(samples, parts, strict=True))


@pytest.mark.parametrize("block", [kernels.BLOCK, 8])
@pytest.mark.parametrize("class_name", BASES)
def test_a_sample_is_dropped_the_same_in_any_company(
    class_name: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where unlike sequences lie in blocks of different width."""
    monkeypatch.setattr(kernels, "BLOCK", block)
    model = model_of(class_name)
    together = states(model, list(LENGTHS))
    for samples in ([40, 3], [12], [41, 11, 8]):
        for sample, state in states(model, samples).items():
            torch.testing.assert_close(state, together[sample], **EXACT)


@pytest.mark.parametrize("class_name", BASES)
def test_all_executions_drop_the_same(class_name: str) -> None:
    """Packed, padded to any width, with holes in no one's way, and with attention spelled out."""
    model = model_of(class_name)
    samples = list(LENGTHS)
    wanted = states(model, samples)
    with minilm.attention("explicit"):
        spelled_out = states(model, samples)
    for width in (9, 13):
        ids = torch.zeros(len(samples), width, dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for row, sample in enumerate(samples):
            ids[row, : LENGTHS[sample]], mask[row, : LENGTHS[sample]] = ids_of(sample), 1
        for layout in ("packed", "padded"):
            model.layout = layout
            with sample_dropout(1, samples, None):
                found = model(ids, mask).last_hidden_state
            for row, sample in enumerate(samples):
                state = found[row, : LENGTHS[sample]]
                torch.testing.assert_close(state, wanted[sample], **EXACT)
        model.layout = "auto"
    for sample in samples:
        torch.testing.assert_close(spelled_out[sample], wanted[sample], **EXACT)


@pytest.mark.parametrize("class_name", ["BertForSequenceClassification", "AlbertForMultipleChoice"])
def test_first_tokens_alone_drop_the_same(class_name: str) -> None:
    """The last layer of a packed call computes first tokens alone, that of a padded call all."""
    model = model_of(class_name, num_labels=2)
    ids = torch.stack([ids_of(3), ids_of(12)])
    found = []
    for layout in ("packed", "padded"):
        model.base.layout = layout
        with sample_dropout(1, [3, 12], None):
            rows = ids[:, None] if class_name.endswith("Choice") else ids
            found.append(model(rows).logits)
    torch.testing.assert_close(found[0], found[1], **EXACT)


@pytest.mark.parametrize("class_name", BASES)
def test_gradient_checkpointing_drops_the_same(class_name: str) -> None:
    """Shared layers, too: every application has masks of its own and finds them again."""
    gradients = []
    for checkpointing in (False, True):
        model = model_of(class_name)
        model.base.gradient_checkpointing = checkpointing
        lengths = list(LENGTHS.values())
        ids = torch.cat([ids_of(sample) for sample in LENGTHS])
        with sample_dropout(1, list(LENGTHS), None):
            model(ids, lengths=lengths).last_hidden_state.square().sum().backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-10)


def test_what_is_computed_again_without_a_number_is_refused() -> None:
    module = Dropout(0.5)
    x = torch.ones(4, 8, requires_grad=True)
    with sample_dropout(0, [0], None):
        entered(Packed.from_lengths([4]))
        found = checkpoint(module, x, use_reentrant=False)
        with pytest.raises(InputError, match="gradient_checkpointing of the model"):
            found.sum().backward()


def masks(seed: int, samples: Sequence[int], lengths: list[int], width: int, calls: int) -> Tensor:
    """What one layer after another drops: (calls, T, width), 0 or 1."""
    x = torch.ones(sum(lengths), width)
    found = []
    with sample_dropout(seed, samples, None):
        entered(Packed.from_lengths(lengths))
        for _ in range(calls):
            found.append(numbered(Dropout(0.25).train())(x))
    return (torch.stack(found) > 0).float()


def test_masks_keep_the_probability_and_are_independent() -> None:
    """In layers, steps, samples, tokens and columns; every bound is five standard deviations."""
    first = masks(1, range(40), [25] * 40, 128, 3)
    assert first.unique().tolist() == [0.0, 1.0]
    other_step = masks(2, range(40), [25] * 40, 128, 3)
    other_samples = masks(1, range(40, 80), [25] * 40, 128, 3)

    def near(found: Tensor, expected: float) -> None:
        deviation = (expected * (1 - expected) / found.numel()) ** 0.5
        assert abs(float(found.double().mean()) - expected) < 5 * deviation

    for part in (first, first[0], first[:, 7], first[:, :, 3], first[1, :25], first[2, :, -1]):
        near(part, 0.75)
    pairs = [
        (first, other_step),
        (first, other_samples),
        (first[0], first[1]),
        (first, first.roll(1, dims=1)),  # neighbouring tokens
        (first, first.roll(25, dims=1)),  # the same position in the next sample
        (first, first.roll(1, dims=2)),  # neighbouring columns
        (first, first.roll(64, dims=2)),
    ]
    for one, other in pairs:
        near(one * other, 0.75**2)
    near(first * first.roll(1, 1) * first.roll(1, 2) * first.roll((1, 1), (1, 2)), 0.75**4)
    everything = torch.cat([first, other_step, other_samples]).flatten(0, 1)
    assert len(everything.unique(dim=0)) == len(everything)  # no token's mask is another's


def test_attention_keeps_the_probability_and_tells_heads_apart() -> None:
    with sample_dropout(3, range(8), None):
        draws = current()
        assert draws is not None
        layout = Packed.from_lengths([64] * 8)
        probs = torch.ones(8, 4, 64, 64)
        first, second = (
            draws.probabilities(probs, draws.places(layout).rows(8), 0.1) * 0.9 for _ in range(2)
        )
    near = 5 * (0.09 / first.numel()) ** 0.5
    assert abs(float(first.mean()) - 0.9) < near
    for other in (second, *(first.roll(1, dims=axis) for axis in range(4))):
        assert abs(float((first * other).mean()) - 0.81) < 2 * near


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("probability", [0.0, 1e-9, 0.9, 1.0])
def test_any_dtype_and_probability(dtype: torch.dtype, probability: float) -> None:
    x = torch.ones(5, 300, dtype=dtype)
    with sample_dropout(0, [0], None):
        entered(Packed.from_lengths([5]))
        found = Dropout(probability)(x)
    assert found.dtype is dtype
    if probability < 0.5:
        torch.testing.assert_close(found, x, rtol=0, atol=1e-8)
    elif probability == 1.0:
        assert torch.equal(found, torch.zeros_like(x))
    else:
        assert found.unique().tolist() == [0.0, pytest.approx(10, rel=2**-7)]


def test_rows_of_a_sample_and_rows_of_none_differ() -> None:
    """Choices of a question are told apart, and whatever a model gets beyond the samples."""
    model = model_of("BertModel")
    ids = ids_of(3).repeat(4)
    with sample_dropout(1, [3, 8], [2, 1]):
        found = model(ids, lengths=[7] * 4).last_hidden_state.unflatten(0, (4, 7))
    for one in range(4):
        for other in range(one):
            assert not torch.allclose(found[one], found[other])
    alone = states(model, [3])[3]  # the first row of a sample is the sample
    torch.testing.assert_close(found[0], alone, **EXACT)


def test_a_model_that_is_called_twice_draws_twice() -> None:
    """As where two views of a text are compared."""
    model = model_of("AlbertModel")
    found = []
    for _ in range(2):
        with sample_dropout(1, [3], None):
            views = [model(ids_of(3), lengths=[7]).last_hidden_state for _ in range(2)]
        assert not torch.allclose(*views)
        found.append(torch.stack(views))
    torch.testing.assert_close(*found, **EXACT)


def test_outside_it_dropout_is_torchs_and_inside_torch_is_untouched() -> None:
    model = model_of("BertModel")
    ids = torch.arange(1, 8)[None]
    torch.manual_seed(1)
    before = torch.get_rng_state()
    with sample_dropout(1, [0], None):
        inside = model(ids).last_hidden_state
        assert current() is not None
    assert current() is None
    assert torch.equal(torch.get_rng_state(), before)
    one = model(ids).last_hidden_state
    torch.manual_seed(1)
    assert torch.equal(one, model(ids).last_hidden_state)
    assert not torch.allclose(one, inside)


def test_threads_do_not_disturb_each_other() -> None:
    model = model_of("AlbertModel")
    wanted = {seed: states(model, [3, 40], seed) for seed in (1, 2)}
    found: dict[int, list[dict[int, Tensor]]] = {1: [], 2: []}

    def work(seed: int) -> None:
        for _ in range(5):
            found[seed].append(states(model, [3, 40], seed))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in wanted]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed, results in found.items():
        assert len(results) == 5
        for result in results:
            assert all(torch.equal(result[sample], wanted[seed][sample]) for sample in result)
    assert not torch.allclose(wanted[1][3], wanted[2][3])


def test_copies_of_a_sample_in_a_step_are_told_apart() -> None:
    parts = [np.array([7, 3, 7]), np.array([], np.int64), np.array([7, 5])]
    keys = sample_keys(parts)
    assert [len(part) for part in keys] == [3, 0, 2]
    found = sorted(np.concatenate(keys).tolist())
    assert found == [3, 5, 7, 7 + 2**40, 7 + 2 * 2**40]
    assert all((key % 2**40 == part).all() for key, part in zip(keys, parts, strict=True))


def test_processes_agree_about_the_keys_of_a_step() -> None:
    """Whichever copy of a sample a process gets, all copies of the step have their own."""

    class Copies(Cloud):
        def steps(self, epoch: int) -> list[Any]:
            return [np.array([1, 2, 1, 3, 2, 1, 4, 1])]

    settings = TrainingSettings(steps=1)
    cpu = torch.device("cpu")

    def keys(rank: int, world: int) -> list[int]:
        _, parts = next(prepared_steps(Copies(), settings, Processes(rank, world, cpu)))
        return [int(key) for part in parts for key in part.keys]

    assert sorted(keys(0, 1)) == sorted(keys(0, 3) + keys(1, 3) + keys(2, 3))
    assert len(set(keys(0, 1))) == 8


def test_every_architecture_is_tested() -> None:
    assert {architecture(name) for name in BASES} == {"bert", "distilbert", "albert"}
