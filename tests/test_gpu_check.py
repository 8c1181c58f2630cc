"""The script for a machine with a GPU runs here too, with tiny models."""

import json

import pytest
import torch
from torch import nn

import gpu_check


def test_it_reports_parity_and_speed(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu_check.main(["--device", "cpu"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert len(report["parity"]) == len(report["speed"]) == 6
    for case in report["parity"].values():
        assert case["right"]
        for form in gpu_check.FORMS:
            assert set(case[form]) == {"states", "logits", "loss", "gradients"}
    for case in report["speed"].values():
        for key, found in case.items():
            if not key.startswith("waits"):
                assert len(found["tokens a second"]) == 4
                assert min(found["tokens a second"].values()) > 0


def test_it_tells_a_wrong_packed_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lengths that are off by one between two texts."""
    right = gpu_check.FORMS["given packed"]

    def wrong(model: nn.Module, batch: gpu_check.Batch) -> dict[str, torch.Tensor]:
        arguments = right(model, batch)
        lengths = arguments["lengths"].clone()
        lengths[0] += 1
        lengths[2] -= 1
        return {**arguments, "lengths": lengths}

    monkeypatch.setitem(gpu_check.FORMS, "given packed", wrong)  # type: ignore[arg-type]
    found = gpu_check.parity("Bert", "float32", tiny=True, device=torch.device("cpu"))
    assert not found["right"]
    assert found["given packed"]["states"] > 1e-3
