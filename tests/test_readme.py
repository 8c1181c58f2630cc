"""The README, the pages beside the examples and the examples are true: everything in them runs."""

import os
import pydoc_data.topics
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
import transformers

import minilm
import minilm.cli
import warm_process

Run = Callable[[list[str], Path], str]
ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = {path.name: path.read_text() for path in sorted((ROOT / "examples").glob("*.md"))}
# the README of the examples has a key of its own: it must not take the place of the first one
TEXTS = {"README.md": README, "examples/README.md": PAGES.pop("README.md"), **PAGES}
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def all_blocks(language: str) -> list[object]:
    """Those of every page, as parameters of a test."""
    return [
        pytest.param(block, id=f"{name}-{number}")
        for name, text in TEXTS.items()
        for number, block in enumerate(blocks(language, text))
    ]


def clone_in(folder: Path) -> Path:
    """A folder that looks like the top of a clone to what is pasted into it."""
    for name in ("weights", "examples", "tests"):
        (folder / name).symlink_to(ROOT / name)
    return folder


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    """Runs a command, of which `python` and `minilm` are warm."""
    with warm_process.commands() as place:
        environment = {**os.environ, "PATH": f"{place}:{os.environ['PATH']}"}

        def run(command: list[str], cwd: Path) -> str:
            done = subprocess.run(
                command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=900,
                check=False,
            )  # fmt: skip
            assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
            return done.stdout

        yield run


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_examples_run(example: Path, tmp_path: Path, run: Run, minilm_l6_dir: Path) -> None:
    assert run(["python", str(example)], tmp_path).strip()
    assert example.read_text().startswith("# %% [markdown]\n# # ")


def test_there_are_examples() -> None:
    assert [path.name[:2] for path in EXAMPLES] == [f"{number:02}" for number in range(14)]


@pytest.mark.parametrize("snippet", all_blocks("python"))
def test_python_snippets_run(snippet: str, tmp_path: Path, run: Run, minilm_l6_dir: Path) -> None:
    code = snippet.replace("sentence-transformers/all-MiniLM-L6-v2", str(minilm_l6_dir))
    run(["python", "-c", code], clone_in(tmp_path))


@pytest.mark.parametrize("tour", all_blocks("console"))
def test_console_snippets_run(tour: str, tmp_path: Path, run: Run, minilm_l6_dir: Path) -> None:
    """All commands of a tour, one after the other."""
    topics = [topic.replace("\n\n", "\n") for topic in pydoc_data.topics.topics.values()]
    (tmp_path / "topics.txt").write_text("\n\n".join(topics[:20]))
    places = {"DIR": str(minilm_l6_dir), "TEXT": "topics.txt"}
    commands = [line[2:] for line in tour.splitlines() if line.startswith("$ ")]
    assert commands
    clone_in(tmp_path)
    for command in commands:
        for name, place in places.items():
            command = re.sub(rf"\b{name}\b", place, command)
        run(["bash", "-euo", "pipefail", "-c", command], tmp_path)


def commands_named() -> list[object]:
    """Every `minilm` command line in code of a page, whether it is run here or too long to run."""
    found: dict[str, str] = {}
    for name, text in TEXTS.items():
        lines = "\n".join(blocks("text", text) + blocks("console", text)).splitlines()
        lines += re.findall(r"`(minilm [a-z][^`]*)`", text)
        for line in lines:
            for command in re.split(r" && | \| ", line.removeprefix("$ ")):
                if re.match(r"minilm [a-z]", command) and "..." not in command:
                    found.setdefault(command, name)
    return [
        pytest.param(command, id=f"{name}-{i}") for i, (command, name) in enumerate(found.items())
    ]


@pytest.mark.parametrize("line", commands_named())
def test_commands_and_options_that_a_page_names_exist(line: str) -> None:
    command: click.Command = minilm.cli.main
    _, *words = shlex.split(line, comments=True)
    while isinstance(command, click.Group):
        name = words.pop(0)
        inner = command.get_command(click.Context(command), name)
        if inner is None and "curves" in command.commands:  # plot: without a command it is `curves`
            inner = command.get_command(click.Context(command), "curves")
        assert inner is not None, name
        command = inner
        if not words:
            break
    known = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
    options = [word.split("=")[0] for word in words if re.match(r"--?[a-z]", word)]
    assert set(options) <= known | {"--help", "-h"}


def test_the_readme_stays_short() -> None:
    assert len(README.splitlines()) <= 150


def test_the_two_setup_commands_are_the_ones_that_ci_runs() -> None:
    first, second = (block.strip() for block in blocks("bash")[:2])
    assert first.endswith("&& minilm compare")
    assert "pytest" in second
    assert "\n" not in first + second
    ci = (ROOT / ".ci" / "run").read_text()
    assert "readme_command '&& minilm compare'" in ci
    assert "readme_command 'pytest'" in ci


def test_pinned_versions_satisfy_the_packages_own_bounds() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    pins = dict(
        line.lower().replace("_", "-").split("==")
        for line in (ROOT / "tests" / "constraints.txt").read_text().splitlines()
        if "==" in line
    )
    for name, bound in re.findall(r'"([a-z-]+)>=([0-9.]+)"', project):
        pinned = tuple(int(part) for part in pins[name].split(".")[:2])
        assert pinned >= tuple(int(part) for part in bound.split(".")[:2]), name
    assert f'"transformers=={pins["transformers"]}"' in project


@pytest.mark.parametrize("name", TEXTS)
def test_links_and_files_that_a_page_names_exist(name: str) -> None:
    home = ROOT if name == "README.md" else ROOT / "examples"
    for target in re.findall(r"\]\(([^)#]+)\)", TEXTS[name]):
        assert target.startswith("https://") or (home / target).exists(), target
    for path in re.findall(r"`((?:minilm|tests|examples)/[\w./]+)`", TEXTS[name]):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("name", TEXTS)
def test_pages_are_complete_and_are_found_from_the_readme(name: str) -> None:
    assert "@@" not in TEXTS[name]
    assert name == "README.md" or f"({name if '/' in name else f'examples/{name}'})" in README


def coming_from_transformers() -> list[tuple[str, str]]:
    """The rows of the table: code for transformers, and for minilm."""
    page = PAGES["coming-from.md"]
    table = page.split("| in transformers | in minilm |")[1].split("\n\n")[0]
    return re.findall(r"^\| `(.*?)` \| `(.*?)` \|$", table, flags=re.MULTILINE)


@pytest.mark.parametrize(("theirs", "ours"), coming_from_transformers())
def test_what_differs_from_transformers_is_refused_and_has_its_place(
    theirs: str, ours: str, minilm_l6_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The left column fails on minilm's objects, or finds nothing; the right one runs."""
    monkeypatch.chdir(tmp_path)
    scope = {
        "minilm": minilm,
        "load": minilm.load,
        "path": str(minilm_l6_dir),
        "model": minilm.load(minilm_l6_dir),
        "tokenizer": minilm.Tokenizer.from_pretrained(minilm_l6_dir),
        "texts": ["a b c d e", "f g"],
        "transformers_config": transformers.BertConfig.from_pretrained(minilm_l6_dir),
    }
    if "LayerNorm" in theirs:  # keeps every parameter, norms among them
        assert len(eval(theirs, scope)) == len(list(scope["model"].parameters()))  # noqa: S307
    else:
        with pytest.raises((minilm.MinilmError, AttributeError, NameError)) as error:
            eval(theirs, scope)  # noqa: S307
        assert len(str(error.value)) > 10
    eval(ours, scope)  # noqa: S307


def test_the_table_for_those_who_come_from_transformers_is_read() -> None:
    assert len(coming_from_transformers()) >= 10


def coming_from_sentence_transformers() -> list[str]:
    """The right column of the first table: code for minilm."""
    page = PAGES["coming-from.md"]
    table = page.split("| in sentence-transformers | in minilm |")[1].split("\n\n")[0]
    return re.findall(r"\| `([^`]*)` \|$", table, flags=re.MULTILINE)


@pytest.mark.parametrize("ours", coming_from_sentence_transformers())
def test_what_sentence_transformers_calls_otherwise_runs(ours: str, minilm_l6_dir: Path) -> None:
    encoder = minilm.Encoder.from_pretrained(minilm_l6_dir)
    texts = ["a text", "another one"]
    scope = {
        "minilm": minilm,
        "path": str(minilm_l6_dir),
        "encoder": encoder,
        "texts": texts,
        "vectors": encoder.encode(texts),
    }
    assert eval(ours, scope) is not None  # noqa: S307


def test_the_table_for_those_who_come_from_sentence_transformers_is_read() -> None:
    assert len(coming_from_sentence_transformers()) >= 7
