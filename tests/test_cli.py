"""The commands: what they print, where, and with which exit code."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest
import torch
import transformers
from click.testing import CliRunner, Result
from safetensors.torch import load_file, save_file

import minilm
import minilm.cli.inspect
from minilm.cli import COMMANDS, main
from saved import make_texts, save_tiny

FILLABLE = [
    "BertForMaskedLM",
    "BertForPreTraining",
    "DistilBertForMaskedLM",
    "AlbertForPreTraining",
]


def run(*arguments: object, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], input=stdin)


@pytest.fixture(scope="module")
def tiny_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def masked_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("masked"), "BertForMaskedLM")


# --- the frame ---


@pytest.mark.parametrize("code", ["import minilm", "import minilm.cli"])
def test_importing_loads_no_torch(code: str) -> None:
    code += "; import sys; print(sorted({'torch', 'numpy', 'transformers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_loads_no_torch_and_no_command() -> None:
    code = (
        "import sys; from minilm.cli import main; main(['--help'], standalone_mode=False);"
        "loaded = [m for m in sys.modules if m.startswith(('torch', 'minilm.cli.'))];"
        "assert not loaded, loaded"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    shown = " ".join(done.stdout.split())  # long lines are wrapped
    for name, (_, line) in COMMANDS.items():
        assert f"{name} {line}" in shown


def test_python_m_and_version() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "minilm.cli", "--version"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"minilm, version {minilm.__version__}\n"


@pytest.mark.parametrize("arguments", [*([name] for name in COMMANDS), ["bench", "encode"]])
def test_help_of_every_command_shows_an_example(arguments: list[str]) -> None:
    result = run(*arguments, "--help")
    assert result.exit_code == 0
    if arguments != ["bench"]:  # a group
        assert f"  minilm {' '.join(arguments)} " in result.stdout


def commands() -> dict[str, click.Command]:
    """Every command that is not a group, by its full name."""
    found: dict[str, click.Command] = {}
    for name in COMMANDS:
        command = main.get_command(click.Context(main), name)
        if isinstance(command, click.Group):
            found |= {f"{name} {inner}": part for inner, part in command.commands.items()}
        elif command is not None:
            found[name] = command
    return found


def test_every_option_has_a_sentence_of_help() -> None:
    wrong = [
        f"minilm {name} {option.opts[0]}: {option.help}"
        for name, command in commands().items()
        for option in command.params
        if isinstance(option, click.Option)
        and (
            not re.fullmatch(r"[A-Zcw].{8,}\.", option.help or "")
            or re.match(r"(Of|In|At|After|Never|Default)\b", option.help or "")
        )
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("name", "option", "word"),
    [
        ("pretrain", "--learning-rate", "Peak learning rate"),
        ("finetune", "--learning-rate", "Peak learning rate"),
        ("finetune", "--patience", "Early stopping"),
        ("finetune", "--max-gradient-norm", "Gradient clipping"),
        ("distill", "--accumulation", "Gradient accumulation"),
        ("pretrain", "--warmup", "Warm-up steps"),
        ("distill", "--temperature", "Distillation temperature"),
        ("pretrain", "--dropout", "attention probabilities"),
        ("finetune", "--out-of-scope", "out-of-distribution"),
        ("pretrain", "--layers", "progressive stacking"),
    ],
)
def test_help_uses_the_terms_that_people_search_for(name: str, option: str, word: str) -> None:
    (found,) = [param for param in commands()[name].params if option in param.opts]
    assert isinstance(found, click.Option)
    assert word in str(found.help)


@pytest.mark.parametrize(
    ("names", "option", "alias", "value"),
    [
        (("pretrain", "distill", "finetune"), "--epsilon", "--eps", "1e-3"),
        (("pretrain", "distill", "finetune"), "--max-gradient-norm", "--max-grad-norm", "2.5"),
        (
            ("pretrain", "distill", "finetune"),
            "--accumulation",
            "--gradient-accumulation-steps",
            "3",
        ),
        (("pretrain", "distill", "finetune", "tokenize"), "--workers", "--num-workers", "2"),
        (("pretrain",), "--head-start", "--warm-start", None),
    ],
)
def test_an_option_and_its_alias_are_the_same(
    names: tuple[str, ...], option: str, alias: str, value: str | None
) -> None:
    for name in names:
        command = commands()[name]
        (field,) = [str(param.name) for param in command.params if option in param.opts]
        assert field == option.removeprefix("--").replace("-", "_")
        given = [
            command.make_context(name, [word, *([] if value is None else [value])],
                                 resilient_parsing=True).params[field]
            for word in (option, alias)
        ]  # fmt: skip
        left_out = command.make_context(name, [], resilient_parsing=True).params[field]
        assert given[0] == given[1] != left_out


def test_unknown_commands_are_usage_errors() -> None:
    result = run("inspekt")
    assert result.exit_code == 2
    assert "inspekt" in result.stderr


def test_errors_are_one_message_and_code_2(tmp_path: Path) -> None:
    result = run("inspect", tmp_path)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert "config.json" in result.stderr
    assert "Traceback" not in result.stderr


def test_ctrl_c_gives_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(path: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(minilm.cli.inspect, "describe", interrupted)
    result = run("inspect", "anything")
    assert result.exit_code == 130
    assert result.stderr == "interrupted\n"


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_a_signal_ends_a_process_without_traceback_or_output(
    tiny_dir: Path, tmp_path: Path
) -> None:
    output = tmp_path / "vectors.npy"
    with subprocess.Popen(
        [sys.executable, "-m", "minilm.cli", "encode", tiny_dir, "-", "-o", output],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        while not list(tmp_path.iterdir()):  # the temporary file: encoding has begun
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors == b"interrupted\n"
    assert list(tmp_path.iterdir()) == []


def test_a_closed_pipe_is_quiet(tiny_dir: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "minilm.cli", "inspect", tiny_dir, "--json"],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""


# --- inspect ---


def test_inspect_counts_shared_groups_once_and_says_how_often_they_run(tmp_path: Path) -> None:
    save_tiny(tmp_path, "AlbertForPreTraining", num_hidden_layers=5, num_hidden_groups=2)
    result = run("inspect", tmp_path, "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    model = minilm.load(tmp_path)
    assert found["class"] == "AlbertForPreTraining"
    assert found["config"]["num_hidden_groups"] == 2
    parts = {part["name"]: part for part in found["components"]}
    assert list(parts) == [
        "encoder.embeddings",
        "encoder.groups.0",
        "encoder.groups.1",
        "encoder.pooler",
        "masked_lm_head",
        "sentence_order_head",
    ]
    assert [parts[f"encoder.groups.{g}"]["applied"] for g in (0, 1)] == [3, 2]
    assert sum(part["parameters"] for part in parts.values()) == model.num_parameters()
    assert found["parameters"] == model.num_parameters()
    assert found["bytes"] == 4 * model.num_parameters()
    assert found["files"] == {"model.safetensors": (tmp_path / "model.safetensors").stat().st_size}
    assert set(found["load_report"]["counts"]) == {"loaded"}


def test_inspect_prints_text(minilm_l6_dir: Path) -> None:
    result = run("inspect", minilm_l6_dir)
    assert result.exit_code == 0, result.stderr
    assert "BertModel (bert), float32" in result.stdout
    assert "hidden_size                   384" in result.stdout
    assert "22,713,216" in result.stdout
    assert "embeddings.position_ids: a counter that old files store" in result.stdout


def test_inspect_shows_bytes_as_stored(tmp_path: Path) -> None:
    minilm.load(save_tiny(tmp_path)).to(torch.float16).save_pretrained(tmp_path)
    found = json.loads(run("inspect", tmp_path, "--json").stdout)
    assert found["dtype"] == "float16"
    assert found["bytes"] == 2 * found["parameters"]


# --- fill-mask ---


@pytest.mark.parametrize("class_name", FILLABLE)
def test_fill_mask_gives_the_models_probabilities(tmp_path: Path, class_name: str) -> None:
    save_tiny(tmp_path, class_name)
    result = run("fill-mask", tmp_path, "word3 [MASK] word5 [MASK]", "--top", 3, "--json")
    assert result.exit_code == 0, result.stderr
    filled = json.loads(result.stdout)
    assert [len(candidates) for candidates in filled] == [3, 3]
    model, tokenizer = minilm.load(tmp_path), minilm.Tokenizer.from_pretrained(tmp_path)
    with torch.no_grad():
        output = model(**tokenizer("word3 [MASK] word5 [MASK]"))
    logits = output.prediction_logits if "prediction_logits" in output else output.logits
    for place, candidates in zip((2, 4), filled, strict=True):
        expected = logits[0, place].softmax(-1).topk(3)
        assert [found["id"] for found in candidates] == expected.indices.tolist()
        assert [found["probability"] for found in candidates] == pytest.approx(
            expected.values.tolist(), abs=1e-6
        )
    assert filled[0][0]["text"] == f"word3 {filled[0][0]['token']} word5 [MASK]"


def test_fill_mask_prints_text(masked_dir: Path) -> None:
    one = run("fill-mask", masked_dir, "word3 [MASK]", "--top", 2)
    assert one.exit_code == 0, one.stderr
    assert len(one.stdout.splitlines()) == 2
    assert "mask 1" not in one.stdout
    two = run("fill-mask", masked_dir, "[MASK] word3 [MASK]", "--top", 2)
    assert [line for line in two.stdout.splitlines() if line.startswith("mask")] == [
        "mask 1",
        "mask 2",
    ]


def test_fill_mask_takes_the_whole_vocabulary_at_most(masked_dir: Path) -> None:
    filled = json.loads(run("fill-mask", masked_dir, "[MASK]", "--top", 1000, "--json").stdout)
    assert len(filled[0]) == 61
    assert sum(found["probability"] for found in filled[0]) == pytest.approx(1, abs=1e-5)


def test_fill_mask_without_a_mask(masked_dir: Path) -> None:
    result = run("fill-mask", masked_dir, "word3 word4")
    assert result.exit_code == 2
    assert "put [MASK] into the text" in result.stderr


def test_fill_mask_never_uses_a_random_head(minilm_l6_dir: Path) -> None:
    result = run("fill-mask", minilm_l6_dir, "Paris is the [MASK] of France.")
    assert result.exit_code == 2
    assert "has no masked-LM head" in result.stderr
    assert "BertForMaskedLM or BertForPreTraining" in result.stderr
    assert result.stdout == ""


# --- encode ---


def test_encode_writes_a_row_for_every_line(tiny_dir: Path, tmp_path: Path) -> None:
    texts, output = tmp_path / "texts.txt", tmp_path / "vectors.npy"
    # an empty line is a text, a line separator of Unicode is not a line end, nor need the last be
    lines = ["word1 word2", "", "word3\u2028word4", "word5\x0cword6", *make_texts(30)]
    texts.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    result = run("encode", tiny_dir, texts, "-o", output)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == ""
    assert f"{output}: 34 rows" in result.stderr
    vectors = np.load(output)
    assert vectors.dtype == np.float32
    encoder = minilm.Encoder.from_pretrained(tiny_dir)
    assert vectors == pytest.approx(encoder.encode(lines), abs=1e-5)
    assert sorted(tmp_path.iterdir()) == [texts, output]


def test_encode_options_and_standard_input(tiny_dir: Path, tmp_path: Path) -> None:
    lines, output = make_texts(9, longest=6), tmp_path / "vectors.npy"
    options = ["--pooling", "cls", "--no-normalize", "--max-length", 9, "--tokens-per-batch", 20]
    data = "".join(f"{line}\n" for line in lines).encode()
    result = run("encode", tiny_dir, "-", "-o", output, *options, stdin=data)
    assert result.exit_code == 0, result.stderr
    encoder = minilm.Encoder.from_pretrained(tiny_dir)
    expected = encoder.encode(lines, pooling="cls", normalize=False)
    assert np.load(output) == pytest.approx(expected, abs=1e-5)
    half = run("encode", tiny_dir, "-", "-o", output, "--dtype", "bfloat16", stdin=data)
    assert half.exit_code == 0, half.stderr
    assert np.load(output) == pytest.approx(encoder.encode(lines), abs=0.1)


def test_encode_streams_in_chunks(
    tiny_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("minilm.sentence.encoder.CHUNK", 7)
    lines, output = make_texts(50), tmp_path / "vectors.npy"
    result = run("encode", tiny_dir, "-", "-o", output, stdin="\n".join(lines).encode())
    assert result.exit_code == 0, result.stderr
    expected = minilm.Encoder.from_pretrained(tiny_dir).encode(lines)
    assert np.load(output) == pytest.approx(expected, abs=1e-5)


def test_encode_nothing(tiny_dir: Path, tmp_path: Path) -> None:
    result = run("encode", tiny_dir, "-", "-o", tmp_path / "vectors.npy", stdin=b"")
    assert result.exit_code == 0, result.stderr
    assert np.load(tmp_path / "vectors.npy").shape == (0, 16)


@pytest.mark.filterwarnings("default")
def test_encode_reports_what_was_cut(tiny_dir: Path, tmp_path: Path) -> None:
    data = b"word1\n" + b"word1 " * 40
    result = run("encode", tiny_dir, "-", "-o", tmp_path / "vectors.npy", stdin=data)
    assert result.exit_code == 0, result.stderr
    assert "warning: 1 of 2 texts was longer than 20 tokens and was cut." in result.stderr


def test_invalid_utf8_names_the_line_and_leaves_the_old_file(
    tiny_dir: Path, tmp_path: Path
) -> None:
    texts, output = tmp_path / "texts.txt", tmp_path / "vectors.npy"
    texts.write_bytes(b"word1\nword2 \xfcber\n")
    output.write_bytes(b"old")
    result = run("encode", tiny_dir, texts, "-o", output)
    assert result.exit_code == 2
    assert f"{texts}, line 2: byte 7 (0xfc) is not UTF-8" in result.stderr
    assert output.read_bytes() == b"old"
    assert sorted(tmp_path.iterdir()) == [texts, output]


def test_an_output_that_cannot_be_written(tiny_dir: Path, tmp_path: Path) -> None:
    result = run("encode", tiny_dir, "-", "-o", tmp_path / "none" / "vectors.npy", stdin=b"a\n")
    assert result.exit_code == 2
    assert "none does not exist" in result.stderr


def test_texts_are_never_overwritten(tiny_dir: Path, tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("a\n")
    result = run("encode", tiny_dir, texts, "-o", texts)
    assert result.exit_code == 2
    assert "is the file of the texts" in result.stderr
    assert texts.read_text() == "a\n"


def test_a_missing_text_file_is_a_usage_error(tiny_dir: Path, tmp_path: Path) -> None:
    result = run("encode", tiny_dir, tmp_path / "none.txt", "-o", tmp_path / "vectors.npy")
    assert result.exit_code == 2
    assert "none.txt" in result.stderr


def test_encode_a_real_model(minilm_l6_dir: Path, tmp_path: Path) -> None:
    lines = ["A cat sits outside.", "A kitten is outdoors.", "Interest rates rose again."]
    result = run(
        "encode", minilm_l6_dir, "-", "-o", tmp_path / "v.npy", stdin="\n".join(lines).encode()
    )
    assert result.exit_code == 0, result.stderr
    cat, kitten, rates = np.load(tmp_path / "v.npy")
    assert cat @ kitten > 0.5 > 0.3 > cat @ rates


# --- convert ---


def test_convert_makes_one_clean_file_of_an_old_sharded_one(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    expected = minilm.load(save_tiny(old, "BertForMaskedLM"))
    tensors = load_file(old / "model.safetensors")
    renamed = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): tensor
        for name, tensor in tensors.items()
    }
    names = sorted(renamed)
    weight_map = {}
    for number, part in enumerate((names[::2], names[1::2]), 1):
        shard = f"model-0000{number}-of-00002.safetensors"
        save_file({name: renamed[name] for name in part}, old / shard)
        weight_map |= dict.fromkeys(part, shard)
    (old / "model.safetensors").unlink()
    (old / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))

    result = run("convert", old, new)
    assert result.exit_code == 0, result.stderr
    assert sorted(path.name for path in new.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
        "vocab.txt",
    ]
    assert result.stdout.splitlines() == [str(path) for path in sorted(new.iterdir())]
    assert set(load_file(new / "model.safetensors")) == set(tensors)
    for found, parameter in zip(minilm.load(new).parameters(), expected.parameters(), strict=True):
        assert torch.equal(found, parameter)
    _, info = transformers.BertForMaskedLM.from_pretrained(new, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]


def test_convert_changes_the_dtype_and_keeps_the_companions(tmp_path: Path) -> None:
    old, new = save_tiny(tmp_path / "old"), tmp_path / "new"
    (old / "1_Pooling").mkdir()
    (old / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    (old / "training_args.bin").write_bytes(b"not copied")
    result = run("convert", old, new, "--dtype", "bfloat16")
    assert result.exit_code == 0, result.stderr
    assert {tensor.dtype for tensor in load_file(new / "model.safetensors").values()} == {
        torch.bfloat16
    }
    assert json.loads((new / "config.json").read_text())["dtype"] == "float32"
    assert minilm.load(new, dtype="auto").dtype == torch.bfloat16
    assert minilm.Encoder.from_pretrained(new).pooling == "cls"
    assert not (new / "training_args.bin").exists()


def test_convert_from_pickle(tmp_path: Path) -> None:
    old, new = save_tiny(tmp_path / "old"), tmp_path / "new"
    tensors = load_file(old / "model.safetensors")
    torch.save(tensors, old / "pytorch_model.bin")
    (old / "model.safetensors").unlink()
    refused = run("convert", old, new)
    assert refused.exit_code == 2
    assert "--from-pickle" in refused.stderr
    result = run("convert", old, new, "--from-pickle")
    assert result.exit_code == 0, result.stderr
    assert load_file(new / "model.safetensors").keys() == tensors.keys()
    assert run("inspect", new).exit_code == 0


def test_convert_never_stores_random_weights(tmp_path: Path) -> None:
    old, new = save_tiny(tmp_path / "old"), tmp_path / "new"
    config = json.loads((old / "config.json").read_text())
    config["architectures"] = ["BertForSequenceClassification"]
    (old / "config.json").write_text(json.dumps(config))
    result = run("convert", old, new)
    assert result.exit_code == 2
    assert "random values would be written" in result.stderr
    assert not new.exists()


def test_convert_leaves_existing_directories_alone(tmp_path: Path) -> None:
    old = save_tiny(tmp_path / "old")
    new = shutil.copytree(old, tmp_path / "new")
    before = (new / "model.safetensors").stat().st_mtime_ns
    result = run("convert", old, new, "--dtype", "float16")
    assert result.exit_code == 2
    assert "exists and is not empty" in result.stderr
    assert (new / "model.safetensors").stat().st_mtime_ns == before


def test_convert_has_no_dtype_for_pickles(tmp_path: Path) -> None:
    result = run("convert", tmp_path, tmp_path / "new", "--from-pickle", "--dtype", "float16")
    assert result.exit_code == 2
    assert "--dtype" in result.stderr


def test_the_group_is_a_click_group() -> None:
    context = click.Context(main)
    assert main.list_commands(context) == list(COMMANDS)
    assert main.get_command(context, "no-such-command") is None
