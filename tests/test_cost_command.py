"""`minilm cost`, and finding configurations by name or path."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
from click.testing import CliRunner, Result

import minilm
import minilm.cli.cost
from minilm.cli import main
from minilm.costs import counting as costs
from minilm.costs.presets import PUBLISHED, find_config
from minilm.errors import ConfigError, InputError
from minilm.training.settings import Optimiser
from saved import save_tiny


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["cost", *map(str, arguments)])


def parsed(*arguments: object) -> Any:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    return json.loads(result.stdout)


# --- finding a configuration ---


def test_names_work_with_and_without_their_owner() -> None:
    assert find_config("albert-base-v2") == find_config("albert/albert-base-v2")
    assert find_config("albert-base-v2") == minilm.AlbertConfig()
    assert find_config("google-bert/bert-base-uncased") == minilm.BertConfig()
    assert find_config("distilbert-base-uncased") == minilm.DistilBertConfig()
    short = [name.rpartition("/")[2] for name in PUBLISHED]
    assert len(set(short)) == len(short)


def test_the_two_releases_of_albert_differ_as_on_the_hub() -> None:
    first, second = find_config("albert-large-v1"), find_config("albert-large-v2")
    assert (first.hidden_act, first.hidden_dropout_prob) == ("gelu", 0.1)
    assert (second.hidden_act, second.hidden_dropout_prob) == ("gelu_new", 0.0)
    assert find_config("albert-xxlarge-v1").attention_probs_dropout_prob == 0.0


@pytest.mark.parametrize("class_name", ["BertModel", "DistilBertForMaskedLM", "AlbertModel"])
def test_paths_need_no_weights(class_name: str, tmp_path: Path) -> None:
    config = minilm.load(save_tiny(tmp_path, class_name)).config
    (tmp_path / "model.safetensors").unlink()
    assert find_config(tmp_path) == config
    assert find_config(tmp_path / "config.json") == config


def test_what_is_on_the_disk_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_tiny(tmp_path / "albert-base-v2")
    monkeypatch.chdir(tmp_path)
    assert isinstance(find_config("albert-base-v2"), minilm.BertConfig)
    assert isinstance(find_config("albert/albert-base-v2"), minilm.AlbertConfig)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("albert-bas-v2", "Did you mean albert-base-v2"),
        ("somebody/bert-base-uncased", "Did you mean google-bert/bert-base-uncased"),
        ("albert/albert-bas-v2", "Did you mean albert/albert-base-v2, albert/"),
        ("???", "Known: bert-base-uncased, "),
        ("", "'' is neither a directory"),
        ("missing/config.json", "give the path of its config.json"),
    ],
)
def test_unknown_names(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        find_config(name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", r"model_type is None: expected one of albert, bert, distilbert"),
        ('{"model_type": "gpt2"}', "model_type is 'gpt2'"),
        ('{"model_type": "bert", "hidden_size": -1}', "hidden_size is -1"),
        ("[]", "a list at the top level"),
    ],
)
def test_bad_files_are_named(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        find_config(path)
    assert str(path) in str(caught.value)


def test_a_directory_without_config(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="config.json does not exist"):
        find_config(tmp_path)


# --- the command ---


def test_one_model() -> None:
    result = run("albert-base-v2")
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0] == "head none, length 128, batch 32, dtype float32, optimiser adamw"
    assert lines[2] == "albert-base-v2"
    assert lines[3:-1] == str(minilm.cost(minilm.AlbertConfig())).splitlines()
    assert lines[-1].startswith("Its layers share weights: 87 % fewer parameters")
    assert lines[-1].endswith("Smaller, not faster.")
    assert result.stderr == ""


def test_several_models_begin_with_a_comparison(tmp_path: Path) -> None:
    save_tiny(tmp_path)
    names = ["distilbert-base-uncased", "bert-base-uncased", str(tmp_path)]
    result = run(*names, "--dtype", "float16")
    assert result.exit_code == 0, result.stderr
    comparison, *each = result.stdout.split("\n\n")[1:]
    assert [line.split()[0] for line in comparison.splitlines()[2:]] == names
    assert "66,362,880" in comparison
    assert [block.splitlines()[0] for block in each] == names
    assert "Smaller" not in result.stdout


def test_json() -> None:
    options = ["--head", "pretraining", "--length", 64, "--batch", 2, "--optimiser", "lamb"]
    found = parsed("albert/albert-base-v1", "bert-tiny", *options)
    models = found.pop("models")
    assert found == {
        "head": "pretraining",
        "length": 64,
        "batch": 2,
        "dtype": "float32",
        "optimiser": "lamb",
    }
    assert [model["model"] for model in models] == ["albert/albert-base-v1", "bert-tiny"]
    albert = models[0]
    parts = albert.pop("components")
    assert albert["parameters"] == 11_813_810
    assert albert["gradient_bytes"] == 4 * 11_813_810
    assert albert["optimiser_bytes"] == 8 * 11_813_810
    assert list(parts)[-3:] == ["pooler", "masked-LM head", "sentence-order head"]
    for key in parts["pooler"]:
        assert albert[key] == sum(part[key] for part in parts.values()), key
    assert "next-sentence head" in models[1]["components"]


def test_muon_keeps_one_number_of_the_matrices_of_layers() -> None:
    albert = parsed("albert-base-v2", "--optimiser", "muon")["models"][0]
    parts, own = albert["components"], 768 * 768
    assert parts["attention"]["optimiser_bytes"] == 4 * (4 * own + 2 * 4 * 768)
    assert parts["pooler"]["optimiser_bytes"] == 8 * (own + 768)
    assert albert["optimiser_bytes"] == sum(part["optimiser_bytes"] for part in parts.values())


def test_batch_and_dtype_change_what_they_should() -> None:
    small, large = (parsed("bert-tiny", "--batch", n)["models"][0] for n in (1, 10))
    assert large.pop("activation_bytes") == 10 * small.pop("activation_bytes")
    del small["components"], large["components"]
    assert large == small
    half = parsed("bert-tiny", "--dtype", "bfloat16")["models"][0]
    assert half["file_bytes"] == pytest.approx(small["file_bytes"] / 2, rel=0.01)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bert-base-unkased"], "Did you mean bert-base-uncased"),
        (["distilbert-base-cased", "--head", "pretraining"], "head is 'pretraining'"),
        (["bert-tiny", "--length", "0"], "--length"),
        (["bert-tiny", "--head", "lm"], "--head"),
        ([], "MODEL"),
    ],
)
def test_errors(arguments: list[str], message: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_the_written_out_choices_are_those_of_the_package() -> None:
    assert tuple(costs.HEADS) == minilm.cli.cost.HEADS
    assert get_args(Optimiser) == minilm.cli.cost.OPTIMISERS


def test_help_needs_no_torch() -> None:
    code = (
        "import sys; from minilm.cli import main; main(['cost', '--help'], standalone_mode=False);"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "  minilm cost albert-base-v2 " in done.stdout
