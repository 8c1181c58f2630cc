"""Advice is given in the words of the place it appears in, and following it works."""

from __future__ import annotations

import ast
import json
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from minilm.cli import COMMANDS, main
from minilm.cli.record_options import read
from minilm.data.records.base import Skips
from minilm.data.records.files import read_records
from minilm.errors import MinilmError, argument, by_place, command_line, setting

SQUAD = {
    "data": [
        {
            "paragraphs": [
                {
                    "context": "Ada wrote it.",
                    "qas": [
                        {
                            "id": "1",
                            "question": "Who?",
                            "answers": [{"text": "Ada", "answer_start": 4}],
                        }
                    ],
                }
            ]
        }
    ]
}

# name and content of a file; the option that the command line is told, its Python twin; and what
# follows the option where the message leaves that open
CASES: dict[str, tuple[str, bytes, str, str, str]] = {
    "backslashes": (
        "a.csv",
        b'text,label\n"the \\"red\\" cat",good\n',
        "--escape '\\'",
        "escape=",
        "",
    ),
    "counted words": ("a.conll", b"1 a O\n2 b O\n", "--token-column", "token_column=...", "2"),
    "a list": ("a.jsonl", b'[{"text": "a"}]\n', "--format json", 'format="json"', ""),
    "open quote": ("a.csv", b'text,label\n"the cat,good\n', "--no-quoting", "quoting=False", ""),
    "misplaced quote": (
        "a.csv",
        b'text,label\n"the" cat,good\n',
        "--no-quoting",
        "quoting=False",
        "",
    ),
    "same name twice": ("a.csv", b"good,good\nbad,bad\n", "--no-header", "header=False", ""),
    "ragged": ("a.csv", b"a\nb,c\n", "--delimiter", "delimiter=...", ";"),
    "latin-1": ("a.csv", b"a,b\n\xe9,1\n", "--encoding latin-1", 'encoding="latin-1"', ""),
    "no format": ("a.data", b'{"text": "a"}\n', "--format", "format=...", "jsonl"),
    "offset": (
        "a.json",
        json.dumps(SQUAD).encode(),
        "--repair-offsets",
        "repair_offsets=True",
        "",
    ),
    "one column": ("a.conll", b"a\nb\n\nc\n", "--tag-column", "tag_column=...", ""),
}


def command(name: str) -> click.Command:
    found = main.get_command(click.Context(main), name)
    assert found is not None
    return found


def follow(path: Path, *options: str) -> list[Mapping[str, Any]]:
    """What `minilm finetune` reads with more options."""
    arguments = ["--task", "classification", "--train", str(path), "--output", "out", *options]
    with command("finetune").make_context("finetune", arguments) as context:
        return list(read(path, context.params, Skips()))


def message_of(path: Path, name: str) -> str:
    arguments = {
        "finetune": ["--task", "tagging", "--model", "none", "--train", path, "--output", "out"],
    }[name]
    result = CliRunner().invoke(main, [name, *map(str, arguments)])
    assert result.exit_code == 2, result.output
    return result.stderr


@pytest.mark.parametrize("case", CASES)
def test_advice_names_options_that_exist_and_help(tmp_path: Path, case: str) -> None:
    name, data, option, python, value = CASES[case]
    path = tmp_path / name
    path.write_bytes(data)
    said = message_of(path, "finetune").replace(str(path), "FILE")
    assert option in said
    assert not re.search(r"\b[a-z_]+=", said), "Python's words on the command line"
    known = {name for one in command("finetune").params for name in one.opts + one.secondary_opts}
    assert set(re.findall(r"--[a-z-]+", said)) <= known
    with pytest.raises(MinilmError) as caught:
        read_records(path)
    assert python in str(caught.value)
    assert not re.search(r"(^|\s|\()--[a-z]", str(caught.value)), "options in Python"
    if case != "one column":  # there is no other column to name
        assert follow(path, *shlex.split(option), *value.split())


def test_settings_in_the_words_of_the_place() -> None:
    assert setting("quoting", True) == "quoting=True"
    assert setting("encoding", "latin-1") == 'encoding="latin-1"'
    assert setting("format") == "format=..."
    assert by_place(python="here", command="there") == "here"
    with command_line({"--quoting", "--no-quoting", "--delimiter", "--format", "--restart"}):
        assert setting("quoting", True) == "--quoting"
        assert setting("quoting", False) == "--no-quoting"
        assert setting("delimiter", ";") == "--delimiter ';'"
        assert setting("delimiter", "\t") == r"--delimiter '\t'"
        assert setting("format") == "--format FORMAT"
        assert setting("resume", False, option="--restart") == "--restart"
        assert setting("allow_unexpected", True) == "allow_unexpected=True in Python"
        assert by_place(python="here", command="there") == "there"
    assert setting("quoting", True) == "quoting=True"


def test_a_command_leaves_pythons_words_behind(tmp_path: Path) -> None:
    """Also one that fails."""
    (tmp_path / "a.csv").write_bytes(b"a,b\n\xe9,1\n")
    message_of(tmp_path / "a.csv", "finetune")
    assert setting("quoting", True) == "quoting=True"


@pytest.mark.parametrize("name", ["finetune", "evaluate", "predict"])
def test_every_option_of_readers_is_an_option_of_the_command(name: str) -> None:
    known = {name for one in command(name).params for name in one.opts + one.secondary_opts}
    with command_line(known):
        for words in [
            setting("quoting", True),
            setting("quoting", False),
            setting("header", False),
            setting("encoding", "utf-16"),
            setting("delimiter", ";"),
            setting("format", "jsonl"),
            setting("token_column", 2),
            setting("tag_column", 4),
            setting("repair_offsets", True),
        ]:
            assert words.startswith("--"), words


def test_other_formats_refuse_an_option_in_the_words_of_the_place(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n')
    with pytest.raises(MinilmError, match="'quoting' is not an option of the format 'jsonl'"):
        read_records(path, quoting=True)
    result = CliRunner().invoke(
        main,
        ["finetune", "--task", "classification", "--model", "none", "--train", str(path),
         "--output", "out", "--no-quoting"],
    )  # fmt: skip
    assert "--no-quoting is not for the format jsonl; it has: --encoding." in result.stderr


# what only a caller in Python can have asked for, and the options of no command
PYTHON_ALONE = (
    "tokenization/batch.py",
    "tokenization/template.py",
    "tokenization/tokenizer.py",
    "recipes/runs.py: segments='single'",
    "learners/distillation.py: shared_entries='first'",
    "learners/pairs.py: segments='sentence_order'",
    "checkpoints/hub.py: local_files_only=True",
    "parity/reference_values.py: attn_implementation='eager'",
)
RENDERED = {"by_place", "setting", "option", "other_default"}


def messages(path: Path) -> list[str]:
    """Texts in code with {} for values, without docstrings and what is rendered by its place."""
    tree = ast.parse(path.read_text())
    skipped: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            skipped.add(id(node.value))
        if isinstance(node, ast.Call):
            called = getattr(node.func, "id", getattr(node.func, "attr", ""))
            if called in RENDERED:
                skipped |= {id(inner) for inner in ast.walk(node)}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr) and id(node) not in skipped:
            parts = [part.value if isinstance(part, ast.Constant) else "{}" for part in node.values]
            found.append("".join(map(str, parts)))
            skipped |= {id(part) for part in node.values}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found += [] if id(node) in skipped else [node.value]
    return found


def test_no_message_of_the_package_is_in_words_of_one_place() -> None:
    """Options and arguments in messages come through `setting`, `argument` or `by_place`.

    A whole command, `minilm convert ...`, is the same in either place.
    """
    package = Path(__file__).parent.parent / "minilm"
    pythons = re.compile(r"(?<![\w-])[a-z][a-z_]*=(?:True|False|None|\.\.\.|[\"'0-9][\w\"'.-]*)")
    options = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
    one_sided = []
    for path in sorted(package.rglob("*.py")):
        name = path.relative_to(package).as_posix()
        if name.startswith(("cli/", "compare/", "pages/")):  # commands, and pages of HTML
            continue
        for text in messages(path):
            if "minilm " in text or "pip install" in text or text.startswith("--"):
                continue
            for words in (*pythons.findall(text), *options.findall(text)):
                one_sided.append(f"{name}: {words}")
    assert [words for words in one_sided if not words.startswith(PYTHON_ALONE)] == []
    assert len(one_sided) >= 5  # the test finds something where there is something


def test_arguments_are_named_in_the_words_of_the_place() -> None:
    assert argument("max_length") == "max_length"
    with command_line({"--max-length"}):
        assert argument("max_length") == "--max-length"
        assert argument("held_out") == "held_out"


def test_commands_are_the_ones_tested() -> None:
    """A new command with --format comes into the list above."""
    readers = {
        name
        for name in COMMANDS
        if any("--format" in option.opts for option in command(name).params)
    }
    others = {"encode"}  # reads lines of text, no records
    assert readers - others == {"finetune", "evaluate", "predict", "evaluate-similarity"}
