"""What can only be seen on a GPU, in one run: `python tests/gpu_check.py > gpu.json`.

Parity: for every architecture, in float32 and bfloat16, the states, the loss and all gradients of a
batch of uneven texts, packed by the model itself, given packed, and padded; each against the padded
model with the same weights in float64. Packing may not add to the error that the dtype has anyway.
Speed: real tokens a second on the standard draw of the benchmark, encoding and training, beside
transformers where it is installed. Waits: how often a call makes the host wait for the device.

Prints one JSON object and ends with 1 if a parity is broken. `--device cpu` runs the same with tiny
models; its figures say nothing.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

import minilm
from minilm.bench.workload import Batch, draw_lengths, make_batches, padding_ratio

STEMS = ("Bert", "DistilBert", "Albert")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
LENGTHS = (61, 3, 17, 128, 1, 17, 40, 6)
TINY = {
    "vocab_size": 200,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
# how much larger than the error of the padded path that of a packed one may be
FACTOR = 2.0

Forms = Mapping[str, Callable[[nn.Module, Batch], dict[str, Tensor]]]
FORMS: Forms = {
    "padded": lambda model, batch: _padded(batch),
    "packed by the model": lambda model, batch: _padded(batch),
    "given packed": lambda model, batch: {"input_ids": batch.packed_ids, "lengths": batch.lengths},
}
LAYOUTS = {"padded": "padded", "packed by the model": "packed", "given packed": "auto"}


def _padded(batch: Batch) -> dict[str, Tensor]:
    return {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}


def on(device: torch.device, batch: Batch) -> Batch:
    """The batch on a device; lengths stay with the host, which plans by them."""
    ids, mask, packed = (
        values.to(device) for values in (batch.input_ids, batch.attention_mask, batch.packed_ids)
    )
    return Batch(ids, mask, packed, batch.lengths)


def fresh(class_name: str, tiny: bool, device: torch.device) -> Any:
    """A model whose biases and norms are drawn too, so that none of them hides a fault."""
    config_class = getattr(minilm, class_name).config_class
    model = getattr(minilm, class_name)(config_class(**(TINY if tiny else {}), **NO_DROPOUT))
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return model.to(device).eval()


def results(model: Any, batch: Batch, form: str) -> dict[str, Tensor]:
    """States without and with gradients, the loss, and the gradients in one line each, (N,)."""
    model.layout = LAYOUTS[form]
    arguments = FORMS[form](model, batch)
    mask = batch.attention_mask.bool()

    def in_line(states: Tensor) -> Tensor:
        return states[mask] if states.dim() == 3 else states

    with torch.no_grad():
        found = {"states": in_line(model.base(**arguments).last_hidden_state).double()}
    labels = arguments["input_ids"].clone()
    if labels.dim() == 2:
        labels[~mask] = -100
    model.zero_grad()
    output = model(**arguments, labels=labels)
    output.loss.backward()
    gradients = [p.grad.flatten().double() for p in model.parameters() if p.grad is not None]
    return {
        **found,
        "logits": in_line(output.logits).detach().double(),
        "loss": output.loss.detach().double(),
        "gradients": torch.cat(gradients),
    }


def parity(stem: str, dtype: str, tiny: bool, device: torch.device) -> dict[str, Any]:
    """Relative errors of every form, by what was compared."""
    model = fresh(f"{stem}ForMaskedLM", tiny, device).to(DTYPES[dtype])
    batch = on(device, make_batches(LENGTHS, batch_size=8, vocab_size=200, seed=1)[0])
    exact = copy.deepcopy(model).double()
    with minilm.attention("explicit"):
        expected = results(exact, batch, "padded")
    del exact
    errors = {
        form: {
            name: float((value - expected[name]).norm() / expected[name].norm())
            for name, value in results(model, batch, form).items()
        }
        for form in FORMS
    }
    floor = torch.finfo(DTYPES[dtype]).eps
    errors["right"] = all(
        error <= FACTOR * errors["padded"][name] + floor
        for form in FORMS
        for name, error in errors[form].items()
    )
    return errors


def waits(model: Any, batch: Batch, form: str) -> int | None:
    """How often one call without gradients makes the host wait; None without a GPU."""
    if batch.input_ids.device.type != "cuda":
        return None
    model.layout = LAYOUTS[form]
    with warnings.catch_warnings(record=True) as said, torch.no_grad():
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        model(**FORMS[form](model, batch))
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in said)


def runs(stem: str, dtype: str, tiny: bool, device: torch.device) -> dict[str, Any]:
    """What is timed: a call that encodes a batch, by contender."""
    ours = fresh(f"{stem}Model", tiny, device)
    found = {}
    with tempfile.TemporaryDirectory() as directory:
        ours.save_pretrained(directory)
        ours.to(DTYPES[dtype])
        for form in FORMS:
            found[f"minilm, {form}"] = (ours, form)
        try:
            import transformers
        except ImportError:
            return found
        transformers.utils.logging.disable_progress_bar()
        theirs = transformers.AutoModel.from_pretrained(
            directory, dtype=DTYPES[dtype], attn_implementation="sdpa"
        )
        found["transformers, sdpa"] = (theirs.to(device).eval(), "padded")
    return found


def speed(stem: str, dtype: str, tiny: bool, device: torch.device) -> dict[str, Any]:
    """Real tokens a second of every contender, in turn, medians; and the host's waits."""
    texts, size, vocabulary, longest, rounds = (
        (8, 4, 200, 60, 1) if tiny else (512, 32, 30000, 512, 3)
    )
    lengths = [min(length, longest) for length in draw_lengths(texts)]
    contenders = runs(stem, dtype, tiny, device)
    report: dict[str, Any] = {}
    for order, ordered in (("arrival", lengths), ("sorted", sorted(lengths))):
        batches = [
            on(device, batch)
            for batch in make_batches(ordered, batch_size=size, vocab_size=vocabulary, seed=1)
        ]
        for kind in ("encode", "train"):
            chosen = batches if kind == "encode" else batches[:4]
            rates: dict[str, list[float]] = {name: [] for name in contenders}
            for _ in range(rounds + 1):
                for name, (model, form) in contenders.items():
                    if name.startswith("minilm"):
                        model.layout = LAYOUTS[form]
                    rates[name].append(rate(model, form, chosen, kind, device))
            found = {name: median(values[1:]) for name, values in rates.items()}
            report[f"{kind}, {order}"] = {
                "tokens a second": found,
                "padding": padding_ratio(chosen),
            }
    for name, (model, form) in contenders.items():
        if name.startswith("minilm"):
            report[f"waits, {form}"] = waits(model, batches[-1], form)
    return report


def rate(model: Any, form: str, batches: list[Batch], kind: str, device: torch.device) -> float:
    """Tokens a second of one pass over the batches."""
    synchronise(device)
    start = time.perf_counter()
    with torch.set_grad_enabled(kind == "train"):
        for batch in batches:
            states = model(**FORMS[form](model, batch))[0]
            if kind == "train":
                states.float().square().mean().backward()
                model.zero_grad()
    synchronise(device)
    return sum(batch.tokens for batch in batches) / (time.perf_counter() - start)


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def check(device: torch.device, tiny: bool) -> dict[str, Any]:
    """Everything, by architecture and dtype."""
    on_gpu = device.type == "cuda"
    report: dict[str, Any] = {
        "device": torch.cuda.get_device_name(device) if on_gpu else "cpu",
        "torch": torch.__version__,
        "parity": {},
        "speed": {},
    }
    for stem in STEMS:
        for dtype in DTYPES:
            report["parity"][f"{stem} {dtype}"] = parity(stem, dtype, tiny, device)
            report["speed"][f"{stem} {dtype}"] = speed(stem, dtype, tiny, device)
    report["right"] = all(case["right"] for case in report["parity"].values())
    return report


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    device = torch.device(parser.parse_args(arguments).device)
    report = check(device, tiny=device.type == "cpu")
    print(json.dumps(report, indent=2))
    return 0 if report["right"] else 1


if __name__ == "__main__":
    sys.exit(main())
