"""FSDP2 on two processes: the step of one process, and a save that loads everywhere."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers

import minilm
from fsdp_driver import NO_DROPOUT
from tiny import ragged, tiny
from twins import STEMS

HERE = Path(__file__).parent
CLASSES = [f"{stem}ForSequenceClassification" for stem in STEMS] + ["AlbertForMaskedLM"]
# the masked-LM head reads the table of words: it has to be in the group of the whole
CASES = [
    (name, wrap)
    for name in CLASSES
    for wrap in ("root", "layers", "tables")
    if (name, wrap) != ("AlbertForMaskedLM", "tables")
]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All cases in one start of two processes."""
    output = tmp_path_factory.mktemp("sharded")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command = [*torchrun, "--nproc-per-node", "2", str(HERE / "fsdp_driver.py"), str(output)]
    paths = [str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [*command, *(f"{name}:{wrap}" for name, wrap in CASES)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return output


@pytest.mark.parametrize(("class_name", "wrap"), CASES)
def test_a_sharded_step_and_its_save(class_name: str, wrap: str, saved: Path) -> None:
    model = tiny(class_name, **NO_DROPOUT)
    batch = ragged((7, 3, 1, 5))
    del batch["token_type_ids"]
    mask = batch["attention_mask"].bool()
    logits = model.train()(**batch).logits
    ((logits if logits.dim() == 2 else logits[mask]).square().sum() / 4).backward()
    torch.optim.SGD(model.parameters(), lr=0.01).step()

    found = getattr(minilm, class_name).from_pretrained(saved / class_name / wrap, dtype="auto")
    assert found.state_dict().keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], value, rtol=0, atol=1e-10, msg=name)
    there = getattr(transformers, class_name).from_pretrained(saved / class_name / wrap).eval()
    logits, wanted = found(**batch).logits, there(**batch).logits
    if logits.dim() == 3:
        logits, wanted = logits[mask], wanted[mask]
    torch.testing.assert_close(logits, wanted, rtol=0, atol=1e-9)
