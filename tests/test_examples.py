"""The examples as notebooks, their picture, and the page of negative results."""

import ast
import re
import shlex
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

import click
import matplotlib
import matplotlib.pyplot as plt
import pytest
import torch

from minilm.cli import main

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
PAGES = sorted((ROOT / "examples").rglob("*.md"))
# these train or measure for a minute or more
LONG = {"05", "08", "09", "10", "11", "12"}


def cells(text: str) -> Iterator[str]:
    """The code cells of a file in percent format, as jupytext and editors cut them."""
    for cell in re.split(r"^# %%", text, flags=re.MULTILINE)[1:]:
        kind, _, body = cell.partition("\n")
        if "[markdown]" in kind:
            assert all(line.startswith("#") for line in body.splitlines() if line), body
        else:
            yield body


def run_as_notebook(example: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Executes an example cell by cell as a kernel does; returns the titles of what it draws.

    There is no `__file__`, `sys.argv` is the kernel's, `get_ipython` exists, the value of a cell's
    last expression is shown, and the working directory is that of the notebook.
    """
    monkeypatch.setattr(sys, "argv", ["ipykernel_launcher.py", "-f", "/run/kernel-1.json"])
    monkeypatch.chdir(example.parent)
    monkeypatch.setattr(matplotlib.pyplot, "show", lambda: drawn.append(label()))
    drawn: list[str] = []

    def label() -> str:
        axes = plt.gcf().axes
        assert axes, "an empty picture is shown"
        plt.gcf().canvas.draw()
        plt.close("all")
        return " ".join(axis.get_xlabel() or axis.get_title() for axis in axes)

    space = {"__name__": "__main__", "get_ipython": lambda: None}
    random = torch.get_rng_state()
    try:
        for number, cell in enumerate(cells(example.read_text())):
            body = ast.parse(cell).body
            last = body.pop() if body and isinstance(body[-1], ast.Expr) else None
            name = f"{example.name}, cell {number}"
            exec(compile(ast.Module(body, []), name, "exec"), space)  # noqa: S102
            if last is not None:
                repr(eval(compile(ast.Expression(last.value), name, "eval"), space))  # noqa: S307
    finally:
        torch.set_rng_state(random)
        plt.close("all")
    return drawn


@pytest.mark.parametrize(
    "example", [e for e in EXAMPLES if e.name[:2] not in LONG], ids=lambda path: path.stem
)
def test_short_examples_run_as_notebooks(
    example: Path, monkeypatch: pytest.MonkeyPatch, minilm_l6_dir: Path
) -> None:
    matplotlib.use("agg")
    drawn = run_as_notebook(example, monkeypatch)
    assert bool(drawn) == ("plt.show()" in example.read_text())


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "example", [e for e in EXAMPLES if e.name[:2] in LONG], ids=lambda path: path.stem
)
def test_long_examples_run_as_notebooks(example: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pytest -m slow tests/test_examples.py (five to ten minutes)"""
    matplotlib.use("agg")
    drawn = run_as_notebook(example, monkeypatch)
    assert bool(drawn) == ("plt.show()" in example.read_text())


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_examples_use_nothing_that_a_notebook_lacks(example: Path) -> None:
    """No name of the file, and no argument of the command line without a look where it runs."""
    tree = ast.parse(example.read_text())
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert "__file__" not in names
    text = example.read_text()
    if re.search(r"sys\.argv\[", text):
        assert '"get_ipython" not in globals() and' in text


def test_a_notebook_is_not_a_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The way of running notices what used to fail."""
    example = tmp_path / "99_example.py"
    for code, error in (("open(sys.argv[1])", FileNotFoundError), ("__file__", NameError)):
        example.write_text(f"# %% [markdown]\n# # Title\n\n# %%\nimport sys\n\n# %%\n{code}\n")
        with pytest.raises(error):
            run_as_notebook(example, monkeypatch)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_says_how_to_run_it_how_long_it_takes_and_asks_something(
    example: Path,
) -> None:
    text = example.read_text()
    introduction = text.split("# %%")[1].replace("\n#", "")
    assert f"`python examples/{example.name}" in introduction
    assert re.search(r"\([^)]*(second|minute)", introduction)
    assert "# ## Your turn\n" in text
    assert "?" in text.split("# ## Your turn\n")[1]
    assert "@@" not in text


@pytest.mark.parametrize("page", [*EXAMPLES, *PAGES], ids=lambda path: path.name)
def test_files_named_in_examples_exist(page: Path) -> None:
    for path in re.findall(r"`((?:minilm|tests|examples|weights)/[\w./-]+)", page.read_text()):
        assert (ROOT / path).exists(), path


def commands() -> list[str]:
    found = []
    for page in PAGES:
        for block in re.findall(r"```text\n(.*?)```", page.read_text(), flags=re.DOTALL):
            for line in block.splitlines():
                parts = [part.strip() for part in line.split("&&")]
                found += [part for part in parts if part.startswith("minilm ")]
    return found


@pytest.mark.parametrize("line", commands())
def test_commands_on_the_pages_have_options_that_exist(line: str) -> None:
    _, name, *words = shlex.split(line)
    command = main.get_command(click.Context(main), name)
    assert command is not None, name
    if isinstance(command, click.Group):
        command = command.get_command(click.Context(command), words.pop(0))
        assert command is not None
    known = {option for parameter in command.params for option in parameter.opts}
    known |= {option for parameter in command.params for option in parameter.secondary_opts}
    given = {word.partition("=")[0] for word in words if word.startswith("--")}
    assert given <= known


def test_the_page_of_negative_results_has_commands() -> None:
    assert len(commands()) >= 6


def test_the_picture_names_files_that_exist_and_is_readable_in_the_dark() -> None:
    file = ROOT / "examples" / "architecture.svg"
    tree = ElementTree.parse(file)
    texts = [element.text or "" for element in tree.iter("{http://www.w3.org/2000/svg}text")]
    paths = re.findall(r"minilm/[\w./]+", " ".join(texts))
    assert len(paths) >= 8
    for path in paths:
        assert (ROOT / path.rstrip(".")).exists(), path
    style = tree.find(".//{http://www.w3.org/2000/svg}style")
    assert style is not None
    light, dark = (style.text or "").split("@media (prefers-color-scheme: dark)")
    fills = re.compile(r"\.(\w+)[^{}]*\{[^}]*(?:fill|stroke): #")
    assert {"paper", "t", "note", "box"} <= set(fills.findall(dark)) & set(fills.findall(light))
    for stage in ("Text", "Tokens", "Embeddings", "Layers", "Heads", "Losses"):
        assert stage in texts


def test_the_page_of_the_examples_lists_all() -> None:
    page = (ROOT / "examples" / "README.md").read_text()
    for path in EXAMPLES:
        assert f"({path.name})" in page, path.name
    for target in re.findall(r"\]\(([^)#:]+)\)", page):
        assert (ROOT / "examples" / target).exists(), target
    assert "(exercises/README.md)" in page
