"""`minilm pretrain` and `minilm distill` from end to end."""

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from click.testing import CliRunner, Result
from safetensors.torch import load_file

import minilm
from minilm.cli import main
from minilm.errors import TrainingError
from minilm.training.lock import locked
from minilm.training.log import Log
from minilm.training.settings import TrainingSettings

TEXT = "\n\n".join(
    f"The {animal} number {number} runs over the {place} and sees {number + 7} other animals. "
    f"Then it sleeps near the {place}, because every {animal} does."
    for number in range(40)
    for animal, place in [("cat", "hill"), ("dog", "river"), ("mouse", "old house")]
)
SIZES = {
    "hidden_size": 16,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
}
SHAPE = ["--layers", 2, "--hidden-size", 16, "--heads", 2, "--positions", 32]
LOOP = ["--max-length", 32, "--tokens-per-step", 256, "--held-out", 4, "--precision", "float32"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with store, vocabulary, another vocabulary, teacher and headless teacher."""
    place = tmp_path_factory.mktemp("training")
    text = place / "text.txt"
    text.write_text(TEXT)
    tokenizer = minilm.train_tokenizer([text], place / "vocabulary", vocab_size=120)
    other = minilm.train_tokenizer([text], place / "other", vocab_size=110)
    minilm.tokenize_corpus([text], tokenizer, place / "store", workers=1)
    config = minilm.BertConfig(vocab_size=tokenizer.vocab_size, num_hidden_layers=4, **SIZES)
    torch.manual_seed(1)
    for name, model in (
        ("teacher", minilm.BertForMaskedLM(config)),
        ("headless", minilm.BertModel(config)),
    ):
        model.save_pretrained(place / name)
        tokenizer.save_pretrained(place / name)
    small = minilm.BertConfig(vocab_size=other.vocab_size, num_hidden_layers=4, **SIZES)
    minilm.BertForMaskedLM(small).save_pretrained(place / "stranger")
    other.save_pretrained(place / "stranger")
    return place


@pytest.fixture(autouse=True)
def inside(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def pretrain(output: Path | str, *more: object) -> Result:
    return run("pretrain", "--corpus", "store", "--output", output, *SHAPE, *LOOP, *more)


def distill(output: Path | str, *more: object) -> Result:
    return run("distill", "--corpus", "store", "--teacher", "teacher", "--output", output, *LOOP,
               *more)  # fmt: skip


def lines_of(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


def assert_refused(done: Result, *words: str) -> None:
    """Explained in a message, not by a traceback."""
    assert done.exit_code == 2, done.output
    assert isinstance(done.exception, SystemExit)
    assert done.stdout == ""
    for word in words:
        assert word in done.stderr


def assert_same_logits(directory: Path, oracle_class: type[transformers.PreTrainedModel]) -> None:
    ids = torch.arange(5, 25)[None]
    ours = minilm.load(directory)
    oracle = oracle_class.from_pretrained(directory, local_files_only=True).eval()
    with torch.no_grad():
        torch.testing.assert_close(ours(ids).logits, oracle(ids).logits, rtol=0, atol=1e-5)


# --- what comes out ---


def test_pretrain_leaves_a_model_that_transformers_loads(tmp_path: Path) -> None:
    done = pretrain(tmp_path / "bert", "--steps", 4, "--json")
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)  # nothing else on stdout
    assert (result["steps"], result["finished"]) == (4, True)
    assert 0 < result["masked_loss"] < 6
    assert "4 steps" in done.stderr
    assert_same_logits(tmp_path / "bert", transformers.BertForMaskedLM)
    assert minilm.Tokenizer.from_pretrained(tmp_path / "bert").vocab_size == 120


def test_distill_leaves_a_student_that_transformers_loads(tmp_path: Path) -> None:
    done = distill(tmp_path / "student", "--steps", 4)
    assert done.exit_code == 0, done.output
    assert "masked kl" in done.stdout
    assert_same_logits(tmp_path / "student", transformers.DistilBertForMaskedLM)
    positions = "distilbert.embeddings.position_embeddings.weight"
    expected = minilm.init_student(minilm.BertForMaskedLM.from_pretrained("teacher"))
    frozen = expected.base.embeddings.position.weight
    assert torch.equal(load_file(tmp_path / "student" / "model.safetensors")[positions], frozen)


def test_pretrain_with_every_option(tmp_path: Path) -> None:
    done = pretrain(
        tmp_path / "albert", "--model", "albert", "--epochs", 1, "--intermediate-size", 24,
        "--dropout", 0.2, "--masking", "whole-words", "--min-length",
        5, "--mask-probability", 0.2, "--max-predictions", 4, "--learning-rate", 1e-3, "--schedule",
        "polynomial", "--power", 2, "--warmup", 3, "--betas", 0.8, 0.9, "--epsilon", 1e-5,
        "--weight-decay", 0.1, "--max-gradient-norm", 0, "--accumulation", 3, "--precision",
        "bfloat16", "--seed", 3, "--log-every", 2, "--evaluate-every", 5, "--evaluation-tokens", 64,
        "--snapshot-every", 5, "--keep-snapshots", 3, "--workers", 2, "--threads", 1, "--device",
        "cpu", "--on-nonfinite", "skip", "--max-skips", 1, "--on-save-error", "raise",
        "--allow-changes",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    stored = json.loads((tmp_path / "albert/run/settings.json").read_text())
    settings = stored["settings"]
    assert settings["betas"] == [0.8, 0.9]
    assert settings["max_gradient_norm"] is None
    assert (settings["warmup"], settings["accumulation"], settings["workers"]) == (3, 3, 2)
    assert settings["steps"] > 5
    assert stored["description"]["model"] == "AlbertForMaskedLM"
    rows = lines_of(tmp_path / "albert/run/log.jsonl")
    assert [row["step"] for row in rows if "loss" in row][:2] == [2, 4]
    assert len(list((tmp_path / "albert/run/snapshots").iterdir())) == 3


def test_distill_with_every_option(tmp_path: Path) -> None:
    done = distill(
        tmp_path / "student", "--steps", 2, "--layers", "0, 1,3", "--drop-token-types",
        "--fresh-mlm-transform", "--train-positions", "--temperature", 3, "--kl", 1, "--mlm", 0.5,
        "--cosine", 2, "--mse", 0.1, "--positions", "masked", "--masking", "tokens",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert minilm.load(tmp_path / "student").config.num_hidden_layers == 3
    rows = lines_of(tmp_path / "student/run/log.jsonl")
    assert {"kl", "mlm", "cosine", "mse", "loss"} <= rows[0].keys()


def test_pretrain_from_a_checkpoint(tmp_path: Path) -> None:
    command = ("pretrain", "--corpus", "store", "--output", tmp_path, "--steps", 2, *LOOP)
    assert run(*command, "--from", "teacher").exit_code == 0
    assert minilm.load(tmp_path).config.num_hidden_layers == 4


# --- what is refused ---


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ([], "--steps and --epochs"),
        (["--steps", 2, "--epochs", 2], "--steps and --epochs"),
        (["--steps", 0], "--steps"),
        (["--steps", 2, "--warmup", "nan"], "warmup is nan"),
        (["--steps", 2, "--warmup", 5], "warmup is 5"),
        (["--steps", 2, "--learning-rate", "nan"], "learning_rate"),
        (["--steps", 2, "--betas", 1, 2], "betas"),
        (["--steps", 2, "--seed", 2**64], "--seed"),
        (["--steps", 2, "--device", "abacus"], "abacus"),
        (["--steps", 2, "--device", "meta"], "meta"),
        (["--steps", 2, "--mask-probability", 2], "probability"),
        (["--steps", 2, "--held-out", 5000], "--held-out is 5000"),
        (["--steps", 2, "--max-length", 33], "33"),
        (["--steps", 2, "--max-length", 2], "--max-length is 2"),
        (["--steps", 2, "--heads", 3], "num_attention_heads"),
        (["--steps", 2, "--corpus", "nowhere"], "nowhere"),
        (["--steps", 2, "--from", "teacher"], "leave out --hidden-size"),
        (["--steps", 2, "--output", "text.txt"], "text.txt"),
    ],
)
def test_wrong_use_of_pretrain(tmp_path: Path, options: list[object], word: str) -> None:
    assert_refused(pretrain(tmp_path / "out", *options), word)
    assert not (tmp_path / "out/config.json").exists()


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--layers", "0,9"], "layers 0 to 3"),
        (["--layers", "0,,1"], "'0,,1'"),
        (["--layers", "²"], "²"),
        (["--layers", "published"], "12 layers"),
        (["--temperature", 0], "--temperature"),
        (["--kl", "inf"], "kl"),
        (["--kl", 0, "--mlm", 0, "--cosine", 0], "weights"),
        (["--teacher", "headless"], "no masked-LM head"),
        (["--teacher", "stranger"], "vocabulary"),
        (["--teacher", "./nowhere"], "nowhere"),
        (["--teacher", "store"], "config.json"),
    ],
)
def test_wrong_use_of_distill(tmp_path: Path, options: list[object], word: str) -> None:
    assert_refused(distill(tmp_path / "out", "--steps", 2, *options), word)
    assert not (tmp_path / "out").exists()


def test_a_model_in_the_output_is_not_replaced() -> None:
    before = Path("teacher/model.safetensors").read_bytes()
    command = ("pretrain", "--corpus", "store", "--from", "teacher", "--output", "teacher", *LOOP)
    assert_refused(run(*command, "--steps", 2), "config.json", "new directory")
    assert Path("teacher/model.safetensors").read_bytes() == before
    assert not Path("teacher/run").exists()


def test_a_finished_run_is_not_taken_for_another(tmp_path: Path) -> None:
    assert distill(tmp_path, "--steps", 2).exit_code == 0
    again = distill(tmp_path, "--steps", 2)
    assert again.exit_code == 0
    assert "all steps are done" in again.stderr
    # models of the same shape, which start from other weights
    assert_refused(distill(tmp_path, "--steps", 2, "--layers", "1,3"), "start.layers")
    assert_refused(distill(tmp_path, "--steps", 2, "--from-scratch"), "from_scratch")
    assert_refused(distill(tmp_path, "--steps", 3), "settings.steps: 2 then, 3 now")
    assert_refused(distill(tmp_path, "--steps", 1, "--warmup", 0, "--allow-changes"), "2 steps")
    more = distill(tmp_path, "--steps", 3, "--allow-changes", "--json")
    assert more.exit_code == 0
    assert json.loads(more.stdout)["steps"] == 3


def test_one_process_at_a_time(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with locked(tmp_path / "run"):
        assert_refused(pretrain(tmp_path, "--steps", 2), "Another process")
    assert pretrain(tmp_path, "--steps", 2).exit_code == 0


# --- plans and interruptions ---


def test_dry_run_measures_and_writes_nothing(tmp_path: Path) -> None:
    done = pretrain(tmp_path / "new", "--epochs", 1, "--dry-run", "--json")
    assert done.exit_code == 0, done.output
    plan = json.loads(done.stdout)
    assert plan["steps"] == plan["steps_per_epoch"] > 5
    assert plan["parameters"] == plan["trained"] > 1000
    assert plan["sequences"] > plan["steps"]
    assert plan["seconds_per_step"] > 0
    assert plan["masked_loss_before"] > 0
    assert plan["evaluations"] > 1
    assert plan["snapshots"] > 1
    assert plan["seconds"] > plan["seconds_of_preparation"] > 0
    assert plan["megabytes_per_snapshot"] > 0
    assert not (tmp_path / "new").exists()
    lines = pretrain(tmp_path / "new", "--epochs", 1, "--dry-run").stdout.splitlines()
    assert any(line.startswith("masked accuracy before  0") for line in lines)


def test_ctrl_c_saves_and_the_same_command_ends_with_the_same_weights(tmp_path: Path) -> None:
    loop = ["--steps", 150, "--snapshot-every", 10, "--workers", 1, "--json"]
    command = [sys.executable, "-m", "minilm.cli", "pretrain", "--corpus", "store", "--output"]
    process = subprocess.Popen(
        [*command, str(tmp_path / "stopped"), *map(str, [*SHAPE, *LOOP, *loop])],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        first = tmp_path / "stopped/run/snapshots/step-00000010"
        wait_for(lambda: first.exists() or process.poll() is not None)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130, stderr
    result = json.loads(stdout)
    assert not result["finished"]
    assert 10 < result["steps"] < 150
    assert "the same command resumes" in stderr
    files = sorted(tmp_path.rglob("*"))
    assert pretrain(tmp_path / "stopped", *loop, "--dry-run").exit_code == 0
    assert sorted(tmp_path.rglob("*")) == files

    # one snapshot is damaged as well: the one before it will do
    newest = max((tmp_path / "stopped/run/snapshots").iterdir())
    (newest / "optimiser.safetensors").write_bytes(b"damaged")
    gone_on = pretrain(tmp_path / "stopped", *loop)
    assert gone_on.exit_code == 0, gone_on.output
    assert "passed over" in gone_on.stderr
    assert "going on after step" in gone_on.stderr
    assert pretrain(tmp_path / "whole", *loop).exit_code == 0
    weights = [
        (tmp_path / name / "model.safetensors").read_bytes() for name in ("stopped", "whole")
    ]
    assert weights[0] == weights[1]


def test_two_processes_train_the_model_of_one(tmp_path: Path) -> None:
    arguments = [*SHAPE, *LOOP, "--dropout", 0, "--steps", 4, "--json"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    done = subprocess.run(
        [*launcher, "2", "-m", "minilm.cli", "pretrain", "--corpus", "store", "--output",
         str(tmp_path / "two"), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == 4  # printed once
    alone = run("pretrain", "--corpus", "store", "--output", tmp_path / "one", *arguments)
    assert alone.exit_code == 0
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    torch.testing.assert_close(one, two, rtol=0, atol=1e-6)


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 300  # a loaded machine
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


# --- a full disk ---


@contextlib.contextmanager
def full_disk() -> Iterator[None]:
    """Files of this process cannot grow."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_lines_of_the_log_wait_until_there_is_room(tmp_path: Path) -> None:
    log = Log(tmp_path / "log.jsonl")
    log.on_start(0, TrainingSettings(steps=3))
    log.write({"step": 1})
    with full_disk():
        log.write({"step": 2})
        with pytest.raises(TrainingError, match=r"log\.jsonl cannot be written"):
            log.sync()
    log.write({"step": 3})
    log.sync()
    log.on_end(3, True)
    rows = lines_of(tmp_path / "log.jsonl")
    assert rows == [{"step": 1}, {"step": 2}, {"step": 3}]
