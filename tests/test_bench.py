"""The benchmark: its workload, its arithmetic, its fairness checks. No test asserts a speed."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import minilm
from minilm import MinilmError
from minilm.bench import contenders, load, measure
from minilm.bench.contenders import CONTENDERS, Contender, Source
from minilm.bench.measure import Settings, bench_encode, check_agreement, peak_memory
from minilm.bench.workload import draw_lengths, encoder_flops, make_batches, padding_ratio
from minilm.cli import main
from minilm.cli.bench import table
from saved import save_tiny
from tiny import tiny

WORKLOADS = ("arrival", "sorted", "one_text_8", "one_text_32", "one_text_128", "training")
SPREAD = ("seconds", "lower_quartile", "upper_quartile", "lowest", "highest")


def source(directory: Path, precision: str = "float32", work: Path | None = None) -> Source:
    return Source(directory, precision, work or directory)


SMALL = Settings(texts=6, batch_size=3, rounds=2, training_batches=1)


@pytest.fixture(scope="module")
def tiny_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tiny"), "DistilBertModel")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No number measured here is of interest; several threads only make tiny models slower."""
    monkeypatch.setattr(measure, "PEAK_SIZE", 64)
    monkeypatch.setattr(measure, "LATENCY_REPEATS", 1)
    monkeypatch.setattr(load, "BEFORE", 0.01)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# --- the workload ---


def test_the_standard_draw() -> None:
    lengths = draw_lengths()
    assert len(lengths) == 512
    assert (min(lengths), max(lengths)) == (6, 512)
    arrival = make_batches(lengths, batch_size=32, vocab_size=9, seed=0)
    in_order = make_batches(sorted(lengths), batch_size=32, vocab_size=9, seed=0)
    # the ratios that the draw is known by
    assert round(padding_ratio(arrival), 2) == 4.46
    assert round(padding_ratio(in_order), 2) == 1.61


def test_both_forms_of_a_batch_hold_the_same_texts() -> None:
    lengths = [5, 9, 2, 7, 1]
    batches = make_batches(lengths, batch_size=2, vocab_size=50, seed=1)
    assert [batch.lengths.tolist() for batch in batches] == [[5, 9], [2, 7], [1]]
    for batch in batches:
        rows = [row[: int(n)] for row, n in zip(batch.input_ids, batch.lengths, strict=True)]
        assert torch.equal(torch.cat(rows), batch.packed_ids)
        assert torch.equal(batch.attention_mask.sum(1), batch.lengths)
        assert batch.tokens == int(batch.lengths.sum())


@pytest.mark.parametrize(
    ("class_name", "changes"),
    [
        ("BertModel", {}),
        ("DistilBertModel", {}),
        ("AlbertModel", {"num_hidden_groups": 2, "inner_group_num": 2}),
    ],
)
def test_flops_are_those_that_torch_counts(class_name: str, changes: dict[str, Any]) -> None:
    model = tiny(class_name, torch.float32, **changes)
    model.base.pooler = None
    # the counter knows matrix products, not the processor's fused attention
    plain = sdpa_kernel(SDPBackend.MATH)
    with plain, FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.ones(3, 11, dtype=torch.int64))
    assert encoder_flops(model.config, [11, 11, 11]) == counter.get_total_flops()


def test_flops_of_distilbert_base() -> None:
    one_token = encoder_flops(minilm.DistilBertConfig(), [1])
    assert round(one_token / 1e6) == 85


# --- running it ---


def test_contenders_agree_and_the_result_has_its_shape(tiny_dir: Path) -> None:
    names = ("minilm", "minilm-packed", "transformers", "transformers-eager")
    settings = Settings(
        names=names, reference="transformers", texts=6, batch_size=3, rounds=2, training_batches=1
    )
    said: list[str] = []
    result = bench_encode(tiny_dir, settings, said.append)
    assert 0 < result["max_difference"] < 1e-5
    assert list(result["contenders"]) == list(names)
    for measured in result["contenders"].values():
        assert set(measured) == {*WORKLOADS, "difference", "cosine"}
        assert measured["cosine"] > 0.9999
        for numbers in (measured[workload] for workload in WORKLOADS):
            assert set(numbers) == {*SPREAD, "tokens_per_second", "share_of_peak", "ratio"}
            assert min(numbers.values()) > 0
            order = ("lowest", "lower_quartile", "seconds", "upper_quartile", "highest")
            assert sorted(numbers[name] for name in order) == [numbers[name] for name in order]
    for workload in WORKLOADS:
        assert result["contenders"]["transformers"][workload]["ratio"] == 1
    assert result["machine"]["load"]["cpus"] >= 1
    # the longest texts of the draw are cut to the 20 tokens that the model takes
    assert result["workload"]["tokens"] == sum(min(n, 20) for n in draw_lengths(6))
    assert result["workload"]["padding_ratio"]["sorted"] >= 1
    assert any("arrival" in line for line in said)
    assert json.loads(json.dumps(result)) == result


def test_another_engine_joins_by_a_row(tiny_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def build(source: Source) -> Contender:
        model = contenders.load_base(source.directory, source.dtype)
        return Contender(lambda b: model(b.input_ids, b.attention_mask).last_hidden_state)

    monkeypatch.setattr(measure, "CONTENDERS", {**CONTENDERS, "other": build})
    settings = Settings(names=("minilm", "other"), texts=6, batch_size=3, rounds=1)
    result = bench_encode(tiny_dir, settings)
    assert set(result["contenders"]["other"]) == {*WORKLOADS, "difference", "cosine"} - {"training"}
    assert "ratio" not in result["contenders"]["other"]["arrival"]


def test_contenders_with_different_weights_are_not_compared(tiny_dir: Path) -> None:
    one = CONTENDERS["minilm"](source(tiny_dir))
    other = CONTENDERS["minilm-packed"](source(tiny_dir))
    assert other.module is not None
    batches = make_batches([5, 9], batch_size=2, vocab_size=50, seed=1)
    check_agreement({"one": one, "other": other}, batches[0], "float32")
    with torch.no_grad():
        next(other.module.parameters()).neg_()
    with pytest.raises(MinilmError, match="other and one give different states"):
        check_agreement({"one": one, "other": other}, batches[0], "float32")


def test_peak_memory_is_of_a_fresh_process(tiny_dir: Path) -> None:
    memory = peak_memory("minilm", source(tiny_dir), SMALL)
    assert 10e6 < memory["loaded"] <= memory["peak"] < 10e9


def test_models_are_in_eval_mode_without_gradients_after_training(tiny_dir: Path) -> None:
    contender = CONTENDERS["minilm"](source(tiny_dir))
    assert contender.module is not None
    batches = make_batches([5, 9], batch_size=2, vocab_size=50, seed=1)
    seconds = measure.time_training({"minilm": contender}, batches, rounds=2)
    assert len(seconds["minilm"]) == 2
    assert not contender.module.training
    assert all(parameter.grad is None for parameter in contender.module.parameters())


# --- the command ---


def test_the_command_prints_json_and_a_table(tiny_dir: Path) -> None:
    arguments = ["--texts", "6", "--batch-size", "3", "--rounds", "1", "--training-batches", "1"]
    run = CliRunner().invoke(main, ["bench", "encode", "--model", str(tiny_dir), *arguments])
    assert run.exit_code == 0, run.stderr
    assert "minilm-packed" in run.stdout
    assert "batches in arrival order" in run.stdout
    assert "arrival" in run.stderr
    run = CliRunner().invoke(
        main, ["bench", "encode", "--model", str(tiny_dir), *arguments, "--json"]
    )
    result = json.loads(run.stdout)
    assert result["model"]["source"] == str(tiny_dir)
    assert set(result["contenders"]) == {"minilm", "minilm-packed"}
    result["contenders"]["minilm"]["memory"] = {
        "loaded": 10**8, "peak": 2 * 10**8, "weights": 10**7,
    }  # fmt: skip
    assert "peak memory" in table(result)


def test_known_models_are_the_published_sizes(tmp_path: Path) -> None:
    assert set(contenders.BASE_CONFIGS) == {"distilbert-base", "albert-base", "bert-base"}
    for config_class in contenders.BASE_CONFIGS.values():
        assert config_class().hidden_size == 768
    contenders.save_random(tiny("AlbertModel").config, tmp_path, seed=1)
    weights = contenders.load_base(tmp_path, torch.float32).embeddings.word.weight
    contenders.save_random(tiny("AlbertModel").config, tmp_path, seed=1)
    assert torch.equal(
        contenders.load_base(tmp_path, torch.float32).embeddings.word.weight, weights
    )
