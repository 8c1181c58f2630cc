"""From a path or a hub name to a directory: against a server on 127.0.0.1 that plays the hub."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

import minilm
from hub_server import COMMIT, Hub, Repository, serve
from malformed import MALICIOUS_NAMES, tiny_config, tiny_tensors, write_sharded
from minilm.checkpoints.hub import resolve
from minilm.checkpoints.weights import open_weights
from minilm.errors import CheckpointError, HubError

CONFIG = json.dumps(tiny_config()).encode()
WEIGHTS = save(tiny_tensors(), {"format": "pt"})
FILES = {
    "config.json": CONFIG,
    "model.safetensors": WEIGHTS,
    "vocab.txt": b"[PAD]\n[UNK]\n",
    "pytorch_model.bin": b"pickle",
    "README.md": b"about",
    "modeling_tiny.py": b"raise SystemExit",
}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    import huggingface_hub
    from huggingface_hub import constants, file_download

    with serve({"org/tiny": Repository(dict(FILES)), "tiny": Repository(dict(FILES))}) as running:
        template = running.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
        monkeypatch.setattr(file_download.time, "sleep", lambda seconds: None)
        huggingface_hub.utils.disable_progress_bars()
        yield running
        huggingface_hub.utils.enable_progress_bars()


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)


# --- paths ---


def test_a_directory_is_itself(tmp_path: Path, no_network: None) -> None:
    assert resolve(tmp_path) == tmp_path
    assert resolve(str(tmp_path)) == tmp_path


def test_loading_a_directory_opens_no_socket(tmp_path: Path, no_network: None) -> None:
    (tmp_path / "config.json").write_bytes(CONFIG)
    (tmp_path / "model.safetensors").write_bytes(WEIGHTS)
    assert isinstance(minilm.load(tmp_path), minilm.BertModel)


def test_a_directory_needs_no_hub_library(tmp_path: Path) -> None:
    code = (
        "import sys, minilm.checkpoints.hub as hub\n"
        f"hub.resolve({str(tmp_path)!r})\n"
        "assert 'huggingface_hub' not in sys.modules and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_directory_wins_over_a_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_network: None
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("org/tiny").mkdir(parents=True)
    assert resolve("org/tiny") == Path("org/tiny")


@pytest.mark.parametrize(
    "path",
    [
        "./models/tiny",
        "../tiny",
        "/nowhere/tiny",
        "~/nowhere/tiny",
        "a/b/c",
        "a/b/",
        "a\\b",
        "C:\\models\\tiny",
        "org/ti ny",
        "org/tiny?x=1",
        "https://example.org/tiny",
        "org/..",
        "org/a..b",
        "org/a--b",
        "-tiny",
        "org/tiny.git",
        "a\0b",
        "a\nb",
        "x" * 5000,
        "",
        ".",
    ],
)
def test_a_path_that_does_not_exist(path: str, no_network: None) -> None:
    if path == ".":
        assert resolve(path) == Path(".")
        return
    with pytest.raises(CheckpointError, match="does not exist"):
        resolve(path)


def test_a_path_object_is_never_a_repository(no_network: None) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        resolve(Path("org/tiny"))


def test_a_file_is_no_directory(tmp_path: Path, no_network: None) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(WEIGHTS)
    with pytest.raises(CheckpointError, match=f"is a file. Give the directory.*{tmp_path}"):
        resolve(file)


# --- downloads ---


@pytest.mark.parametrize("name", ["org/tiny", "tiny"])
def test_only_what_minilm_reads_is_downloaded(hub: Hub, tmp_path: Path, name: str) -> None:
    directory = resolve(name, cache_dir=tmp_path)
    assert {path.name for path in directory.iterdir()} == {
        "config.json",
        "model.safetensors",
        "vocab.txt",
    }
    assert hub.fetched() == {"config.json", "model.safetensors", "vocab.txt"}
    with open_weights(directory) as weights:
        stored = tiny_tensors()
        assert weights.tensors.keys() == stored.keys()
        assert all(torch.equal(weights.read(key), value) for key, value in stored.items())


def test_models_load_by_name(hub: Hub, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="^org/tiny does not store masked_lm_head"):
        by_class = minilm.BertForMaskedLM.from_pretrained("org/tiny", cache_dir=tmp_path)
    found = minilm.load("org/tiny", cache_dir=tmp_path)
    assert isinstance(found, minilm.BertModel)
    assert torch.equal(found.embeddings.word.weight, by_class.get_input_embeddings().weight)
    with pytest.raises(HubError, match="org/absent"):
        minilm.load("org/absent", cache_dir=tmp_path)


@pytest.mark.parametrize("folder", ["onnx", "models/v2", "models/v2/"])
def test_a_folder_of_a_repository(folder: str, hub: Hub, tmp_path: Path) -> None:
    inner = {f"{folder.strip('/')}/{name}": content for name, content in FILES.items()}
    hub.repositories["org/tiny"] = Repository({"README.md": b"about", **inner})
    options = {"subfolder": folder, "cache_dir": tmp_path}
    model = minilm.load("org/tiny", **options)
    assert torch.equal(model.state_dict()["embeddings.norm.weight"], model.embeddings.norm.weight)
    assert resolve("org/tiny", **options).parts[-1] == folder.strip("/").split("/")[-1]
    assert resolve("org/tiny", local_files_only=True, **options).is_dir()
    with pytest.raises(HubError, match=r"folder 'nowhere/', on the hub has no config.json"):
        resolve("org/tiny", subfolder="nowhere", cache_dir=tmp_path)


def test_a_second_time_downloads_nothing(hub: Hub, tmp_path: Path) -> None:
    first = resolve("org/tiny", cache_dir=tmp_path)
    hub.requests.clear()
    assert resolve("org/tiny", cache_dir=tmp_path) == first
    assert hub.fetched() == set()


def test_a_tokenizer_needs_no_weights(hub: Hub, tmp_path: Path) -> None:
    directory = resolve("org/tiny", cache_dir=tmp_path, weights=False)
    assert hub.fetched() == {"config.json", "vocab.txt"}
    del hub.repositories["org/tiny"].files["config.json"]
    assert resolve("org/tiny", cache_dir=tmp_path / "other", weights=False).name == directory.name
    del hub.repositories["org/tiny"].files["vocab.txt"]
    with pytest.raises(HubError, match=r"tokenizer\.json, vocab\.txt, spiece\.model"):
        resolve("org/tiny", cache_dir=tmp_path / "third", weights=False)


def test_a_revision(hub: Hub, tmp_path: Path) -> None:
    assert resolve("org/tiny", revision=COMMIT, cache_dir=tmp_path).name == COMMIT
    with pytest.raises(HubError, match=r"'org/tiny' has no revision 'v9'"):
        resolve("org/tiny", revision="v9", cache_dir=tmp_path)


def test_shards(hub: Hub, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    write_sharded(source)
    hub.repositories["org/tiny"].files = {path.name: path.read_bytes() for path in source.iterdir()}
    directory = resolve("org/tiny", cache_dir=tmp_path / "cache")
    shard = "model-00001-of-00002.safetensors"
    assert shard in hub.fetched()
    assert (directory / shard).is_symlink()  # into the blobs of the cache, which is no escape
    with open_weights(directory) as weights:
        assert len(weights.tensors) == len(tiny_tensors())

    del hub.repositories["org/tiny"].files[shard]
    with pytest.raises(HubError, match=shard):
        resolve("org/tiny", cache_dir=tmp_path / "other")


def test_shards_in_a_store_shared_by_repositories(tmp_path: Path) -> None:
    """huggingface_hub 2 may keep the bytes in `blobs` of the cache, two links away."""
    snapshot = tmp_path / "models--org--tiny" / "snapshots" / COMMIT
    blobs, shared = snapshot.parents[1] / "blobs", tmp_path / "blobs" / "ab"
    for folder in (snapshot, blobs, shared):
        folder.mkdir(parents=True)
    write_sharded(snapshot)
    for path in snapshot.glob("*.safetensors"):
        path.rename(shared / path.name)
        (blobs / path.name).symlink_to(shared / path.name)
        path.symlink_to(f"../../blobs/{path.name}")
    with open_weights(snapshot) as weights:
        assert len(weights.tensors) == len(tiny_tensors())


@pytest.mark.parametrize("name", MALICIOUS_NAMES)
def test_shard_names_are_checked_before_any_download(hub: Hub, tmp_path: Path, name: str) -> None:
    index = json.dumps({"weight_map": {"a": name}}).encode()
    hub.repositories["org/tiny"].files = {
        "config.json": CONFIG,
        "model.safetensors.index.json": index,
    }
    with pytest.raises(CheckpointError, match="refused"):
        resolve("org/tiny", cache_dir=tmp_path / "cache")
    assert hub.fetched() == {"config.json", "model.safetensors.index.json"}


def test_only_a_pickle(hub: Hub, tmp_path: Path) -> None:
    del hub.repositories["org/tiny"].files["model.safetensors"]
    with pytest.raises(HubError, match="minilm convert SRC DST --from-pickle"):
        resolve("org/tiny", cache_dir=tmp_path)
    assert "pytorch_model.bin" not in hub.fetched()


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_a_repository_that_is_no_model(hub: Hub, tmp_path: Path, missing: str) -> None:
    files = hub.repositories["org/tiny"].files
    del files[missing], files["pytorch_model.bin"]
    with pytest.raises(HubError, match=rf"'org/tiny' \(revision main\) on the hub.* no.*{missing}"):
        resolve("org/tiny", cache_dir=tmp_path)


# --- access ---


def test_no_such_repository(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(HubError, match=r"^There is no directory 'org/tony' here, and on the hub"):
        resolve("org/tony", cache_dir=tmp_path)


def test_gated(hub: Hub, tmp_path: Path) -> None:
    hub.repositories["org/tiny"].access = "gated"
    with pytest.raises(HubError, match=r"config.json of 'org/tiny' .*accept the conditions"):
        resolve("org/tiny", cache_dir=tmp_path)


def test_private(hub: Hub, tmp_path: Path) -> None:
    hub.repositories["org/tiny"].access = "private"
    for token in (None, "bad"):
        with pytest.raises(HubError, match=r"'org/tiny'.*token=") as caught:
            resolve("org/tiny", cache_dir=tmp_path, token=token)
        assert "bad" not in str(caught.value)
    assert resolve("org/tiny", cache_dir=tmp_path, token="good").name == COMMIT


# --- networks ---


def test_offline_uses_the_cache(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = resolve("org/tiny", cache_dir=tmp_path)
    hub.requests.clear()
    assert resolve("org/tiny", cache_dir=tmp_path, local_files_only=True) == directory
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert resolve("org/tiny", cache_dir=tmp_path) == directory
    assert resolve("org/tiny", cache_dir=tmp_path, weights=False) == directory
    assert hub.requests == []


@pytest.mark.parametrize("variable", [False, True])
def test_offline_without_a_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_network: None, variable: bool
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", variable)
    with pytest.raises(HubError) as caught:
        resolve("org/tiny", revision="v1", cache_dir=tmp_path, local_files_only=not variable)
    reason = "HF_HUB_OFFLINE" if variable else "local_files_only"
    for text in ("'org/tiny'", "config.json", "v1", str(tmp_path), reason, "no directory"):
        assert text in str(caught.value)


def test_offline_with_half_a_cache(hub: Hub, tmp_path: Path) -> None:
    resolve("org/tiny", cache_dir=tmp_path, weights=False)
    with pytest.raises(HubError, match=r"model\.safetensors.*in the cache"):
        resolve("org/tiny", cache_dir=tmp_path, local_files_only=True)


def test_the_environment_variables_work(hub: Hub, tmp_path: Path) -> None:
    """As a user sets them, before Python starts."""
    code = "from minilm.checkpoints.hub import resolve; print(resolve('org/tiny'))"

    def run(**changes: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"HF_HOME": str(tmp_path), "HF_ENDPOINT": hub.url} | changes
        return subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )

    online = run()
    assert online.returncode == 0, online.stderr
    hub.requests.clear()
    offline = run(HF_HUB_OFFLINE="1")
    assert (offline.returncode, offline.stdout) == (0, online.stdout)
    empty = run(HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path / "empty"))
    assert "HubError" in empty.stderr
    assert str(tmp_path / "empty") in empty.stderr
    assert hub.requests == []


def test_nobody_listens(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = resolve("org/tiny", cache_dir=tmp_path)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{port}")
    assert resolve("org/tiny", cache_dir=tmp_path) == directory
    with pytest.raises(HubError, match=r"^There is no directory 'org/other' here.*Connect"):
        resolve("org/other", cache_dir=tmp_path)


def test_an_interrupted_download_goes_on(hub: Hub, tmp_path: Path) -> None:
    hub.repositories["org/tiny"].faults["model.safetensors"] = "cut once"
    directory = resolve("org/tiny", cache_dir=tmp_path)
    assert (directory / "model.safetensors").read_bytes() == WEIGHTS


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "vocab.txt"])
@pytest.mark.parametrize("fault", ["cut", "longer", "unannounced", "changed", "500", "403", "404"])
def test_a_bad_download_is_never_used(hub: Hub, tmp_path: Path, file: str, fault: str) -> None:
    hub.repositories["org/tiny"].faults[file] = fault
    with pytest.raises(HubError) as caught:
        resolve("org/tiny", cache_dir=tmp_path)
    for text in (file, "'org/tiny'", "main"):
        assert text in str(caught.value)
    assert not list(tmp_path.rglob(f"snapshots/*/{file}"))
    # what was lost does not poison the cache
    hub.repositories["org/tiny"].faults.clear()
    directory = resolve("org/tiny", cache_dir=tmp_path)
    assert (directory / file).read_bytes() == FILES[file]


def test_files_of_sentence_encoders_come_along(hub: Hub, tmp_path: Path) -> None:
    files = {
        "sentence_bert_config.json": b'{"max_seq_length": 12}',
        "1_Pooling/config.json": b'{"pooling_mode_cls_token": true}',
    }
    hub.repositories["org/tiny"].files.update(files)
    directory = resolve("org/tiny", cache_dir=tmp_path)
    assert {name: (directory / name).read_bytes() for name in files} == files
