"""The README and the examples are true: every snippet and every example runs."""

import os
import pydoc_data.topics
import re
import subprocess
import sys
from pathlib import Path

import pytest
import transformers

import minilm

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def run(command: list[str], cwd: Path) -> str:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_examples_run(example: Path, tmp_path: Path, minilm_l6_dir: Path) -> None:
    assert run([sys.executable, str(example)], tmp_path).strip()
    assert example.read_text().startswith("# %% [markdown]\n# # ")


def test_there_are_examples() -> None:
    assert [path.name[:2] for path in EXAMPLES] == [f"{number:02}" for number in range(13)]


@pytest.mark.parametrize("snippet", blocks("python"))
def test_python_snippets_run(snippet: str, tmp_path: Path, minilm_l6_dir: Path) -> None:
    code = snippet.replace("path/to/all-MiniLM-L6-v2", str(minilm_l6_dir))
    run([sys.executable, "-c", code], tmp_path)


@pytest.mark.parametrize("tour", blocks("console"))
def test_console_snippets_run(
    tour: str, tmp_path: Path, minilm_l6_dir: Path, rxnmapper_dir: Path
) -> None:
    """All commands of a tour, one after the other."""
    topics = [topic.replace("\n\n", "\n") for topic in pydoc_data.topics.topics.values()]
    (tmp_path / "topics.txt").write_text("\n\n".join(topics[:20]))
    places = {"DIR": str(minilm_l6_dir), "MLM": str(rxnmapper_dir), "TEXT": "topics.txt"}
    commands = [line[2:] for line in tour.splitlines() if line.startswith("$ ")]
    assert len(commands) >= 5
    for command in commands:
        for name, place in places.items():
            command = re.sub(rf"\b{name}\b", place, command)
        run(["bash", "-euo", "pipefail", "-c", command], tmp_path)


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


def test_links_and_files_named_in_the_readme_exist() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("https://") or (ROOT / target).exists(), target
    for path in re.findall(r"`((?:minilm|tests|examples)/[\w./]+)`", README):
        assert (ROOT / path).exists(), path


def test_the_readme_is_complete() -> None:
    assert "@@" not in README


def coming_from_transformers() -> list[tuple[str, str]]:
    """The rows of the table: code for transformers, and for minilm."""
    table = README.split("| in transformers | in minilm |")[1].split("\n\n")[0]
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
