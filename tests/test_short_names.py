"""The models in weights/ of the repository have short names wherever a model is named."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from click.testing import CliRunner

import minilm
from minilm.checkpoints import hub
from minilm.checkpoints.hub import SHIPPED, resolve
from minilm.cli import main
from minilm.costs.presets import find_config
from minilm.errors import CheckpointError

WEIGHTS = Path(__file__).parent.parent / "weights"


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.chdir(tmp_path)


def test_all_shipped_models_have_short_names() -> None:
    assert set(SHIPPED) == {path.name for path in WEIGHTS.iterdir()}
    for name in SHIPPED:
        assert resolve(name) == WEIGHTS / name


def test_python_and_the_command_line_take_them() -> None:
    encoder = minilm.Encoder.from_pretrained("bert-mini")
    assert encoder.encode(["hello"]).shape == (1, 256)
    assert minilm.Tokenizer.from_pretrained("bert-mini").vocab_size == 8000
    assert find_config("bert-mini").hidden_size == 256
    result = CliRunner().invoke(main, ["fill-mask", "bert-mini", "The [MASK] is red."])
    assert result.exit_code == 0, result.output
    assert CliRunner().invoke(main, ["inspect", "distilbert-mini"]).exit_code == 0


def test_a_directory_of_the_name_wins(tmp_path: Path) -> None:
    (tmp_path / "bert-mini").mkdir()
    assert resolve("bert-mini") == Path("bert-mini")


def test_an_installed_package_says_where_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "_SHIPPED_IN", tmp_path / "weights")
    with pytest.raises(CheckpointError, match=r"^There is no directory 'bert-mini' here. .*clone"):
        resolve("bert-mini")
    result = CliRunner().invoke(main, ["inspect", "bert-mini"])
    assert result.exit_code == 2
    assert "weights/bert-mini" in result.stderr


def test_a_path_object_is_never_a_short_name() -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        resolve(Path("bert-mini"))


@pytest.mark.parametrize(
    ("words", "suggestion"),
    [
        (["finetun"], "Did you mean finetune?"),
        (["fill_mask"], "Did you mean fill-mask?"),
        (["bench", "encod"], "Did you mean encode?"),
    ],
)
def test_misspelt_commands(words: list[str], suggestion: str) -> None:
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 2
    assert result.stderr.count(suggestion) == 1


def test_a_command_like_no_other_has_no_suggestion() -> None:
    result = CliRunner().invoke(main, ["xyzzy"])
    assert result.exit_code == 2
    assert "Did you mean" not in result.stderr


@pytest.mark.parametrize(("name", "hint"), [("berd-mini", True), ("some/model", False)])
def test_misspelt_short_names(name: str, hint: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    result = CliRunner().invoke(main, ["inspect", name])
    assert result.exit_code == 2
    assert f"There is no directory '{name}' here" in result.stderr
    assert ("(did you mean 'bert-mini'?)" in result.stderr) is hint
