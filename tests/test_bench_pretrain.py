"""The pretraining benchmark: both sides take the same step. No test asserts a speed."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

import minilm
from minilm.bench import distillation, measure, pretraining
from minilm.bench.distillation_loops import labelled_batches
from minilm.bench.machine import describe_machine, machine_words
from minilm.bench.memory import held_by_tensors, in_fresh_process
from minilm.bench.pretraining import (
    LOOPS,
    PretrainingSettings,
    bench_pretraining,
    check_agreement,
    pretraining_flops,
    step_memory,
)
from minilm.cli import main
from minilm.cli.bench_pretrain import table
from minilm.errors import InputError, MinilmError
from minilm.training.memory import hand_back_freed_memory
from tiny import tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("albert")
    tiny("AlbertForPreTraining", torch.float32, hidden_dropout_prob=0.1).save_pretrained(directory)
    return directory


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(measure, "PEAK_SIZE", 64)
    monkeypatch.setattr(distillation, "PROBE_SIZE", 64)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_both_loops_take_the_same_step(model: Path, tmp_path: Path) -> None:
    """Loss, gradient, and the weights after an update without dropout."""
    plain = minilm.AlbertForPreTraining.from_pretrained(
        model, hidden_dropout_prob=0.0, classifier_dropout=0.0
    )
    model = tmp_path
    plain.save_pretrained(model)
    (batch,) = labelled_batches((9, 20, 6), batch_size=3, vocab_size=61, seed=1)
    loops = {name: loop(model, "float32") for name, loop in LOOPS.items()}
    assert check_agreement(loops, batch, "float32") < 1e-5
    before = minilm.load(model).state_dict()
    ours, theirs = loops["minilm"], loops["transformers"]
    ours.step(batch)
    theirs.step(batch)
    wanted = minilm.AlbertForPreTraining.from_pretrained(model)
    wanted.load_state_dict(theirs.model.state_dict())
    moved = 0.0
    for name, value in ours.model.state_dict().items():
        # Adam's first step is a sign: gradients that cancel to rounding may go either way
        torch.testing.assert_close(value, wanted.state_dict()[name], rtol=0, atol=2.1e-4)
        moved += float((value - before[name]).abs().max())
    assert moved > 0


def test_loops_that_differ_are_not_compared(model: Path) -> None:
    (batch,) = labelled_batches((9, 20, 6), batch_size=3, vocab_size=61, seed=1)
    loops = {name: loop(model, "float32") for name, loop in LOOPS.items()}
    with torch.no_grad():
        next(loops["minilm"].model.parameters()).mul_(1.1)
    with pytest.raises(MinilmError, match="would mean nothing"):
        check_agreement(loops, batch, "float32")


def test_the_result(model: Path) -> None:
    found = bench_pretraining(model, PretrainingSettings(batches=1, rounds=2))
    assert found["contenders"].keys() == {"minilm", "transformers"}
    assert found["contenders"]["transformers"]["ratio"] == 1.0
    seconds = [found["contenders"][name]["seconds"] for name in ("minilm", "transformers")]
    assert found["contenders"]["minilm"]["ratio"] == pytest.approx(seconds[1] / seconds[0])
    assert found["workload"]["padding_ratio"] > 1
    assert "x transformers" in table(found)
    json.dumps(found)


def test_memory_with_checkpointing(model: Path) -> None:
    found = step_memory(model, [20] * 4, 0, checkpointing=True)
    assert 0 < found["prepared"] <= found["peak"]
    assert found["seconds"] > 0


def test_freed_memory_is_handed_back() -> None:
    """In a process of its own: 40 blocks of 16 MB, every other one freed."""
    kept, after = in_fresh_process(freed_share)
    assert kept > 600e6
    assert after < 0.7 * kept


def freed_share() -> tuple[int, int]:
    if not hand_back_freed_memory():
        pytest.fail("this C library has no mallopt; the test is for Linux with glibc")
    blocks = [torch.zeros(4 << 20) + 1 for _ in range(40)]
    kept = resident()
    del blocks[::2]
    return kept, resident()


def resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_the_command() -> None:
    options = ["--alone", "--hidden-size", "16", "--layers", "2", "--vocab-size", "50",
               "--batches", "1", "--rounds", "1", "--dtype", "float32"]  # fmt: skip
    done = CliRunner().invoke(main, ["bench", "pretrain", *options, "--json"])
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert result["contenders"].keys() == {"minilm"}
    assert describe_machine().items() <= result["machine"].items()
    assert machine_words(result["machine"]) in table(result)


def test_operations() -> None:
    config = minilm.AlbertConfig()
    one = pretraining_flops(config, [128])
    encoder = minilm.cost(config, length=128)
    pooler = encoder.parts["pooler"].flops
    head = 19 * 2 * 128 * (768 + 30_000)  # 15 % of 128 tokens
    assert one == 3 * (128 * (encoder.flops - pooler) + head)


@pytest.mark.parametrize("name", ["batches", "rounds", "memory_tokens"])
def test_wrong_settings_are_named(name: str) -> None:
    with pytest.raises(InputError, match=f"{name} is 0"):
        PretrainingSettings(**{name: 0})
    assert pretraining.MAX_NORM == 1.0


def test_shared_weights_are_held_once() -> None:
    before = held_by_tensors()
    model = minilm.AlbertModel(
        minilm.AlbertConfig(
            vocab_size=100, hidden_size=64, num_attention_heads=2, intermediate_size=256
        )
    )
    added = held_by_tensors() - before
    assert added == 4 * model.num_parameters()
    view = model.embeddings.word.weight[2:]
    assert held_by_tensors() - before == added
    apart = view.clone()
    assert held_by_tensors() - before == added + apart.nbytes
