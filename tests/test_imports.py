"""The structure of the package: what may import what, what an import costs, what is public."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import minilm

PACKAGE = Path(minilm.__file__).parent

# A module may import modules of its own level or below, never above.
LEVELS = [
    ("errors",),
    ("files",),
    ("blocks", "metrics"),
    ("config", "outputs"),
    ("losses", "checkpoints"),
    ("tokenization",),
    ("data",),
    ("models",),
    ("training",),
    ("loader", "compression", "costs", "pages"),
    ("sentence",),
    ("tasks",),
    ("learners",),
    ("recipes",),
    ("parity", "bench", "export"),
    ("compare",),
    ("cli",),
]
LEVEL_OF = {name: level for level, names in enumerate(LEVELS) for name in names}
# training a vocabulary reads text files
ABOVE_ITS_ROOM = {"minilm.tokenization.training": "data"}


def part_of(module: str) -> str:
    return ABOVE_ITS_ROOM.get(module) or (module.split(".")[1] if "." in module else "")


def imported(path: Path) -> set[str]:
    """Modules of minilm that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= set(names if node.module == "minilm" else [node.module])
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name.startswith("minilm.")}


def upward(path: Path, modules: set[str]) -> list[str]:
    """The imports that point from a file to a higher level."""
    own = part_of("minilm." + ".".join(path.relative_to(PACKAGE).with_suffix("").parts))
    return sorted(m for m in modules if LEVEL_OF[part_of(m)] > LEVEL_OF[own])


def test_imports_point_downwards() -> None:
    wrong = {}
    for path in PACKAGE.rglob("*.py"):
        if path == PACKAGE / "__init__.py":
            continue  # names every public module, lazily
        if arrows := upward(path, imported(path)):
            wrong[str(path.relative_to(PACKAGE))] = arrows
    assert wrong == {}


def test_an_upward_import_would_be_noticed() -> None:
    assert upward(PACKAGE / "blocks" / "layout.py", {"minilm.models.bert", "minilm.errors"}) == [
        "minilm.models.bert"
    ]


def test_the_engine_knows_no_model_and_no_data_set() -> None:
    for path in (PACKAGE / "training").rglob("*.py"):
        assert not {part_of(m) for m in imported(path)} & {"models", "data", "losses"}, path


@pytest.mark.parametrize("name", ["bert", "distilbert", "albert"])
def test_models_do_not_import_each_other(name: str) -> None:
    others = {f"minilm.models.{other}" for other in ("bert", "distilbert", "albert")}
    assert not imported(PACKAGE / "models" / f"{name}.py") & others


def test_nothing_in_the_package_can_run_what_a_file_says() -> None:
    """No pickle, eval, exec or import by computed name; torch.load only in the converter."""
    forbidden = {"pickle", "eval", "exec", "yaml", "marshal", "__import__"}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            where = f"{path.relative_to(PACKAGE)}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in forbidden, where
            if isinstance(node, ast.Import):
                imports = {alias.name for alias in node.names}
                assert not forbidden & imports or path.name == "pickled.py", where
            if isinstance(node, ast.Attribute) and ast.unparse(node) == "torch.load":
                assert path.name == "pickled.py", where
            if isinstance(node, ast.keyword) and node.arg == "weights_only":
                assert ast.unparse(node.value) == "True", where


def test_public_names_exist_and_are_declared_once() -> None:
    tree = ast.parse((PACKAGE / "__init__.pyi").read_text())
    declared = [
        alias.asname
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    ]
    assert sorted(declared) == sorted(set(declared))
    assert {*declared, "__version__"} == set(minilm.__all__)
    for name in minilm.__all__:
        assert getattr(minilm, name) is not None
    with pytest.raises(AttributeError, match="no minilm attribute|No minilm attribute"):
        getattr(minilm, "AlbertTurbo")  # noqa: B009


def test_importing_minilm_imports_nothing_heavy() -> None:
    code = (
        "import sys, minilm; heavy = {'torch', 'numpy', 'tokenizers', 'transformers', "
        "'huggingface_hub', 'google.protobuf'} & set(sys.modules); sys.exit(str(heavy) if heavy "
        "else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_the_models_need_no_optional_package() -> None:
    code = (
        "import sys, minilm; minilm.AlbertModel, minilm.load, minilm.Encoder, minilm.Tokenizer; "
        "heavy = {'transformers', 'huggingface_hub', 'google.protobuf'} & set(sys.modules); "
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
