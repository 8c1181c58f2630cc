"""Help: options in groups, each with meaning, unit and default; an example with its output."""

from __future__ import annotations

import doctest
import inspect
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from minilm.cli import COMMANDS, SECTIONS, main
from minilm.cli.help import ELSEWHERE, GROUP_OF, GROUPS, Command, group_of

# words that say what a number counts, or what it is a part or a weight of
UNITS = (
    *("token", "word", "step", "layer", "text", "sentence", "head", "group", "record", "sample"),
    *("document", "sequence", "answer", "seed", "epoch", "run", "query", "round", "batch"),
    *("thread", "process", "snapshot", "evaluation", "candidate", "prediction", "position", "pass"),
    *(
        "fraction",
        "share",
        "ratio",
        "probability",
        "confidence",
        "rate",
        "weight",
        "decay",
        "width",
    ),
    *("size", "exponent", "norm", "temperature", "epsilon", "score", "difference", "log.jsonl"),
    *("byte", "second", "degree", "dropout", "column", "numbers", "shard", "micro-batch", "class"),
)
# commands whose examples need nothing but the models of the repository
SELF_CONTAINED = ("attention", "cost", "fill-mask", "inspect")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every command that is not a group, by its full name."""
    for name in COMMANDS:
        command = main.get_command(click.Context(main), name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from ((f"{name} {inner}", part) for inner, part in command.commands.items())
        else:
            yield name, command


ALL = dict(commands())


def wrong(option: click.Option) -> list[str]:
    """What an option's help lacks."""
    text = option.help or ""
    found = []
    if not re.fullmatch(r"[A-Z].{8,}[.]", text, re.DOTALL):
        found.append("sentence")
    if group_of(option) not in GROUPS:
        found.append("group")
    stated = option.show_default and option.default is not None
    plain_flag = option.is_flag and not option.secondary_opts  # off, unless it is given
    if not (option.required or plain_flag or stated or "default:" in text.lower()):
        found.append("default")
    number = isinstance(option.type, click.types.IntParamType | click.types.FloatParamType)
    if number and not any(unit in text.lower() for unit in UNITS):
        found.append("unit")
    return found


def test_every_option_has_a_sentence_a_group_a_default_and_a_unit() -> None:
    found = {
        f"minilm {name} {option.opts[0]}: {option.help}": wrong(option)
        for name, command in ALL.items()
        for option in command.params
        if isinstance(option, click.Option)
    }
    assert len(found) > 250
    assert {name: lacks for name, lacks in found.items() if lacks} == {}


@pytest.mark.parametrize(
    ("option", "lacks"),
    [
        (click.Option(["--seed"], type=int), ["sentence", "default", "unit"]),
        (click.Option(["--strange"], is_flag=True, help="Do it again."), ["group"]),
        (click.Option(["--seed"], type=float, help="The highest one."), ["default", "unit"]),
        (click.Option(["--seed"], type=int, default=3, help="Random seed."), ["default"]),
        (click.Option(["--seed"], type=int, help="Random seed. Default: 3."), []),
    ],
)
def test_what_lacks_is_seen(option: click.Option, lacks: list[str]) -> None:
    assert wrong(option) == lacks


def test_every_command_is_in_one_section_and_takes_the_class() -> None:
    placed = [name for names in SECTIONS.values() for name in names]
    assert len(placed) == len(set(placed))
    assert set(COMMANDS) <= set(placed)
    for name, command in ALL.items():
        assert isinstance(command, Command), name
    shown = run("--help").stdout
    for title, names in SECTIONS.items():
        if set(names) & set(COMMANDS):
            assert f"\n{title}:\n" in shown


def test_groups_are_shown_in_order_and_nothing_is_lost() -> None:
    assert set(GROUP_OF.values()) <= set(GROUPS)
    for name, command in ALL.items():
        shown = run(*name.split(), "--help").stdout
        titles = re.findall(r"^(\w+) options:$", shown, re.MULTILINE)
        order = [title for title in GROUPS.values() if title in titles]
        assert titles == order, name
        for option in command.params:
            if isinstance(option, click.Option):
                assert re.search(rf"^  .*{re.escape(option.opts[0])}\b", shown, re.MULTILINE)
        assert "--config" in shown


# --- examples ---


def examples(name: str) -> list[tuple[str, str]]:
    """The command lines in a command's help, each with what the help shows it to print."""
    found: list[tuple[str, str]] = []
    for line in inspect.cleandoc(ALL[name].help or "").replace("\b", "").splitlines():
        continues = bool(found) and not found[-1][1] and found[-1][0].endswith("\\")
        if re.match(r"  (minilm|echo) ", line):
            found.append((line.strip(), ""))
        elif continues:
            found[-1] = (f"{found[-1][0][:-1]}{line.strip()}", "")
        elif found and line.startswith("    "):
            command, output = found[-1]
            found[-1] = (command, f"{output}{line[4:]}\n")
    return found


@pytest.mark.parametrize("name", ALL)
def test_an_example_with_its_output(name: str) -> None:
    found = examples(name)
    assert found, f"minilm {name} has no example"
    assert any(output for _, output in found), f"no example of minilm {name} shows its output"
    assert any(f"minilm {name} " in f"{command} " for command, _ in found)
    for command, output in found:
        width = max(map(len, output.splitlines()), default=0)
        assert width <= 92, f"{command} shows {width} columns"


@pytest.mark.parametrize("name", ALL)
def test_the_options_of_examples_exist(name: str) -> None:
    for line, _ in examples(name):
        words = shlex.split(line.partition("| ")[2] if line.startswith("echo") else line)
        words = [*words[: words.index(">")]] if ">" in words else words
        words = [*words[: words.index("<")]] if "<" in words else words
        inner = " ".join(words[1:3]) if " ".join(words[1:3]) in ALL else words[1]
        inner = "plot curves" if inner == "plot" else inner
        known = {n for each in ALL[inner].params for n in (*each.opts, *each.secondary_opts)}
        assert {word for word in words if word.startswith("--")} <= known, line


@pytest.mark.parametrize("name", SELF_CONTAINED)
def test_an_example_prints_what_the_help_says(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    checked = 0
    for line, output in examples(name):
        if not output:
            continue
        result = run(*shlex.split(line)[1:])
        assert result.exit_code == 0, result.output
        rule = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
        assert doctest.OutputChecker().check_output(output, result.output, rule), result.output
        checked += 1
    assert checked


# --- words of other programs, completion ---


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (["pretrain", "--lr", "1"], "Here it is called --learning-rate."),
        (["pretrain", "--learning_rate", "1"], "--learning-rate"),
        (["pretrain", "--lerning-rate", "1"], "Did you mean '--learning-rate'?"),
        (["finetune", "--num_train_epochs", "1"], "Here it is called --epochs."),
        (["bench", "encode", "--round", "1"], "--rounds"),
        (["cost", "--xyzzy"], "No such option"),
    ],
)
def test_options_that_do_not_exist(arguments: list[str], answer: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert answer in result.stderr


def test_words_of_other_programs_lead_to_options_that_exist() -> None:
    known = {name for command in ALL.values() for option in command.params for name in option.opts}
    assert set(ELSEWHERE.values()) <= known
    assert known.isdisjoint(ELSEWHERE)


def test_completion_names_commands_and_loads_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: object) -> None:
        raise AssertionError("a command was loaded")

    monkeypatch.setattr("minilm.cli.LazyGroup.get_command", load)
    found = main.shell_complete(click.Context(main), "fi")
    assert [each.value for each in found] == ["fill-mask", "finetune"]
    assert all(each.help for each in found)


@pytest.mark.parametrize(
    ("words", "expected"),
    [("minilm dist", {"distill", "distill-sentences"}), ("minilm cost --le", {"--length"})],
)
def test_completion_of_a_shell(words: str, expected: set[str]) -> None:
    environment = {
        "_MINILM_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
    }
    result = CliRunner().invoke(main, [], prog_name="minilm", env=environment)
    assert {line.partition(",")[2] for line in result.stdout.splitlines()} == expected
