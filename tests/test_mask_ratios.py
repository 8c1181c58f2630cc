"""Mask ratios that change in the course of a run: functions of (seed, epoch, sample) alone."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, strategies as st

import minilm
from memory_store import MemoryStore, wordpiece
from minilm.cli import main
from minilm.data.epochs import Epochs
from minilm.data.mask_ratios import ChangingRatio
from minilm.data.masked_lm import MaskedLMData
from minilm.data.masking import Masking, RareTokenMasking, TokenMasking, WholeWordMasking
from minilm.data.ngram_masking import NGramMasking
from minilm.data.segment_pairs import SegmentPairs
from minilm.data.sequences import Sequences
from minilm.data.vocabulary import Vocabulary
from minilm.errors import InputError
from minilm.files.arrays import Doubles, Integers
from minilm.training.distributed import Processes
from minilm.training.settings import TrainingSettings
from minilm.training.steps import DataPosition, prepared_steps
from toy import ALONE

LENGTHS = np.random.default_rng(0).integers(20, 60, 200)
STORE = MemoryStore(
    wordpiece(size=200), [5 + np.arange(length) % 195 for length in LENGTHS], sentence=4
)
VOCABULARY = Vocabulary.of(STORE.tokenizer())
FALLING = ChangingRatio(first=0.4, last=0.1, epochs=2)
MASKINGS: dict[str, Masking] = {
    "tokens": TokenMasking(VOCABULARY, 0.4),
    "whole_words": WholeWordMasking(VOCABULARY, 0.4),
    "ngrams": NGramMasking(VOCABULARY, 0.4),
    "rare_tokens": RareTokenMasking(VOCABULARY, np.arange(VOCABULARY.size), 0.4),
}


def pairs() -> SegmentPairs:
    return SegmentPairs(
        STORE, task="sentence_order", max_length=24, min_length=0, block_tokens=1000
    )


def data_of(
    masking: str = "tokens",
    ratio: ChangingRatio | None = FALLING,
    source: Sequences | SegmentPairs | None = None,
) -> MaskedLMData:
    return MaskedLMData(
        source or Sequences(STORE, max_length=60),
        MASKINGS[masking],
        VOCABULARY,
        tokens_per_step=300,
        seed=3,
        ratio=ratio,
    )


def labels_of(data: MaskedLMData, epoch: int, samples: Integers) -> list[int]:
    found: list[int] = data.batch(epoch, samples).labels.tolist()
    return found


def shares_of(data: MaskedLMData, epochs: int) -> list[float]:
    """Of every step, the share of its tokens that is predicted."""
    return [
        float((data.batch(epoch, samples).labels >= 0).float().mean())
        for epoch in range(epochs)
        for samples in data.steps(epoch)
    ]


@given(st.floats(0.01, 0.99), st.floats(0.01, 0.99), st.integers(1, 50), st.integers(1, 40))
def test_the_ratio_goes_from_one_end_to_the_other_in_equal_steps(
    first: float, last: float, total: int, per_epoch: int
) -> None:
    ratio = ChangingRatio(first=first, last=last, steps=total)
    found = np.concatenate([ratio.at(e, np.arange(per_epoch), per_epoch) for e in range(60)])
    assert found[0] == first
    assert found[total:] == pytest.approx(last)
    changes = np.diff(found[: min(total, len(found))])
    assert changes == pytest.approx((last - first) / total)


def test_epochs_and_steps_say_the_same() -> None:
    by_epochs = ChangingRatio(first=0.3, last=0.15, epochs=3)
    by_steps = ChangingRatio(first=0.3, last=0.15, steps=30)
    for epoch in range(5):
        np.testing.assert_allclose(
            by_epochs.at(epoch, np.arange(10), 10), by_steps.at(epoch, np.arange(10), 10)
        )


def test_an_epoch_counts_as_long_as_the_first_one() -> None:
    class Noting(ChangingRatio):
        def at(self, epoch: int, steps: Integers, steps_per_epoch: float) -> Doubles:
            noted.append(steps_per_epoch)
            return super().at(epoch, steps, steps_per_epoch)

    noted: list[float] = []
    data = MaskedLMData(
        Sequences(STORE, max_length=60),
        MASKINGS["tokens"],
        VOCABULARY,
        tokens_per_step=200,
        seed=3,
        ratio=Noting(first=0.4, last=0.1, epochs=2),
    )
    lengths = [len(data.steps(epoch)) for epoch in (0, 1)]
    assert lengths[0] != lengths[1]
    for epoch in (1, 0):
        data.batch(epoch, data.steps(epoch)[0])
    assert noted == [lengths[0]] * 2


@pytest.mark.parametrize("masking", MASKINGS)
def test_predictions_become_fewer_for_every_way_of_masking(masking: str) -> None:
    data = data_of(masking)
    shares = shares_of(data, 3)
    steps = data.count_steps(2)
    wanted = 0.4 - 0.3 * np.arange(steps) / steps
    # words and n-grams that do not fit leave a little of the budget
    assert shares[:steps] == pytest.approx(wanted, abs=0.05)
    assert shares[steps:] == pytest.approx([0.1] * (len(shares) - steps), abs=0.04)
    assert np.mean(shares_of(data_of(masking, None), 1)) == pytest.approx(0.4, abs=0.03)


@pytest.mark.parametrize("masking", ["tokens", "rare_tokens"])
def test_fewer_predictions_are_some_of_the_more(masking: str) -> None:
    """Chance is that of (seed, epoch, sample) as ever; the ratio only says where to stop."""
    falling, constant = data_of(masking), data_of(masking, None)
    fewer = 0
    for samples in falling.steps(1):
        some, more = (np.array(labels_of(data, 1, samples)) >= 0 for data in (falling, constant))
        assert (more | ~some).all()
        fewer += int(more.sum() - some.sum())
    assert fewer > 0


@pytest.mark.parametrize("source", ["sequences", "pairs"])
def test_the_step_of_every_sample_is_known(source: str) -> None:
    for size in (30, 120, 300, 2500, 10**6):
        chosen = pairs() if source == "pairs" else Sequences(STORE, max_length=60)
        for epoch in (0, 2):
            drawn = Epochs(chosen, tokens_per_step=size, seed=3)[epoch]
            steps = list(drawn)
            for number, samples in enumerate(steps):
                assert drawn.steps_of(samples).tolist() == [number] * len(samples)
            # of any samples, also those of blocks that are no longer in memory
            mixed = np.concatenate([step[:1] for step in steps])[::-1]
            assert drawn.steps_of(mixed).tolist() == list(range(len(steps)))[::-1]


@pytest.mark.parametrize("source", ["sequences", "pairs"])
def test_nothing_depends_on_how_a_step_is_shared_out_or_on_what_was_asked_before(
    source: str,
) -> None:
    def make() -> MaskedLMData:
        return data_of(source=pairs() if source == "pairs" else None)

    whole, fresh = make(), make()
    position = DataPosition(1, 2)
    settings = TrainingSettings(steps=9, workers=2, accumulation=2)
    for epoch in range(2):
        for samples in whole.steps(epoch):
            labels_of(whole, epoch, samples)
    alone = prepared_steps(fresh, TrainingSettings(steps=9), ALONE, position)
    others = [
        prepared_steps(make(), settings, Processes(rank, 2, torch.device("cpu")), position)
        for rank in range(2)
    ]
    for _ in range(4):
        reached, (one,) = next(alone)
        samples = one.batch.samples
        assert one.batch.labels.tolist() == labels_of(whole, reached.epoch, samples)
        found: dict[int, list[int]] = {}
        for other in others:
            for part in next(other)[1]:
                ends = part.batch.lengths.cumsum(0)[:-1].tolist()
                rows = np.split(part.batch.labels.numpy(), ends) if len(part.keys) else []
                found |= {
                    int(n): row.tolist() for n, row in zip(part.batch.samples, rows, strict=True)
                }
        together = [label for n in samples for label in found[int(n)]]
        assert together == one.batch.labels.tolist()
    for generator in (alone, *others):
        generator.close()


def test_the_ratio_is_part_of_what_a_run_is() -> None:
    constant, falling = data_of(ratio=None), data_of()
    assert "ratio" not in constant.fingerprint  # as in runs of earlier versions
    assert falling.fingerprint == {
        **constant.fingerprint,
        "ratio": {"first": 0.4, "last": 0.1, "steps": None, "epochs": 2},
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"first": 0.0}, "first is 0.0"),
        ({"last": 1.0}, "last is 1.0"),
        ({"epochs": None}, "steps is None and epochs None"),
        ({"steps": 3}, "steps is 3 and epochs 2"),
        ({"epochs": 0}, "epochs 0"),
    ],
)
def test_wrong_ratios_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ChangingRatio(**{"first": 0.3, "last": 0.1, "epochs": 2, **changes})


TEXT = "\n\n".join(
    f"The {animal} number {number} runs over the {place}. It sees {number + 7} other animals."
    for number in range(40)
    for animal, place in [("cat", "hill"), ("dog", "river"), ("mouse", "old house")]
)


def test_the_command(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(TEXT)
    tokenizer = minilm.train_tokenizer(
        [tmp_path / "text.txt"], tmp_path / "vocabulary", vocab_size=120
    )
    minilm.tokenize_corpus([tmp_path / "text.txt"], tokenizer, tmp_path / "store", workers=1)

    def pretrain(*options: object, final: float = 0.1) -> Any:
        arguments = [
            "pretrain", "--corpus", tmp_path / "store", "--output", tmp_path / "out", "--layers", 1,
            "--hidden-size", 16, "--heads", 2, "--positions", 32, "--tokens-per-step", 256,
            "--mask-probability", 0.5, "--final-mask-probability", final, "--log-every", 1,
            "--precision", "float32", "--mask-replace-probability", 0.75, *options,
        ]  # fmt: skip
        return CliRunner().invoke(main, [*map(str, arguments)])

    dry = pretrain("--epochs", 3, "--dry-run")
    assert dry.exit_code == 0, dry.output
    done = pretrain("--epochs", 3)
    assert done.exit_code == 0, done.output
    lines = (tmp_path / "out/run/log.jsonl").read_text().splitlines()
    shares = [row["masked_share"] for row in map(json.loads, lines) if "masked_share" in row]
    assert shares[0] == pytest.approx(0.5, abs=0.05)
    assert shares[-1] == pytest.approx(0.1, abs=0.05)
    stored = json.loads((tmp_path / "out/run/settings.json").read_text())
    assert stored["data"]["corruption"] == {"mask_share": 0.75, "keep_share": 0.125}
    assert stored["data"]["ratio"] == {"first": 0.5, "last": 0.1, "steps": None, "epochs": 3}
    other = pretrain("--epochs", 3, final=0.2)
    assert other.exit_code == 2, other.output
    assert "data.ratio.last" in other.output
