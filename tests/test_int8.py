"""Models in 8 bits: exact products, nothing shared between texts, the same bits from the disk."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from torch import Tensor, nn

import minilm
from minilm.blocks import inference, int8
from minilm.blocks.activations import gelu
from minilm.blocks.int8 import (
    QuantizedEmbedding,
    QuantizedLinear,
    QuantizedWeight,
    Rows,
    emulated_product,
    float_weight,
    quantize_rows,
    quantize_weight,
)
from minilm.cli import main
from minilm.cli.inspect import components
from minilm.compare.measure import component_sizes
from minilm.models.pretrained import PretrainedModel

SIZES = {
    "hidden_size": 64,
    "num_attention_heads": 4,
    "intermediate_size": 100,
    "num_hidden_layers": 3,
    "vocab_size": 120,
    "max_position_embeddings": 40,
    "initializer_range": 0.2,
}
CLASSES = (
    "BertModel",
    "BertForSequenceClassification",
    "BertForMaskedLM",
    "DistilBertForMaskedLM",
    "DistilBertForSequenceClassification",
    "AlbertModel",
    "AlbertForPreTraining",
    "AlbertForTokenClassification",
)
LENGTHS = [7, 1, 13, 7, 40, 2, 31, 16]


def fresh(name: str, **more: object) -> PretrainedModel:
    cls = getattr(minilm, name)
    sizes = SIZES | ({"embedding_size": 24} if name.startswith("Albert") else {}) | more
    torch.manual_seed(0)
    model: PretrainedModel = cls(cls.config_class(**sizes)).eval()
    for parameter in model.parameters():  # fresh biases are 0 and fresh norms 1
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model


def texts() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(1, 120, (n,), generator=generator) for n in LENGTHS]


def outputs(model: nn.Module, batch: list[Tensor]) -> list[Tensor]:
    lengths = [len(text) for text in batch]
    with torch.inference_mode():
        found = model(torch.cat(batch), lengths=lengths)
    return list(found.to_tuple())


@pytest.fixture(params=[7, 8], ids=["7 bits", "8 bits"])
def bits(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Both rules; the kernels of this machine must be able to do the one that is tested."""
    chosen: int = request.param
    if chosen == 8 and int8.input_bits() == 7:  # then 8 bits run in the emulation
        monkeypatch.setattr(int8, "has_kernel", lambda weight: False)
    monkeypatch.setattr(int8, "input_bits", lambda: chosen)
    return chosen


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def saturating_product(rows: Rows, weight: Tensor, scale: Tensor) -> Tensor:
    """What processors without VNNI compute: pairs of products added in 16 bits, which are cut."""
    pairs = (rows.values.long()[:, None] * weight.long()).unflatten(-1, (-1, 2)).sum(-1)
    return pairs.clamp(-(2**15), 2**15 - 1).sum(-1).float() * scale


@pytest.mark.parametrize("rows", [1, 5, 40])
def test_the_kernel_is_exact_to_the_bit(bits: int, rows: int) -> None:
    generator = torch.Generator().manual_seed(rows)
    linear = QuantizedLinear.of(nn.Linear(70, 33))
    values = torch.randint(1 << bits, (rows, 70), generator=generator).to(torch.uint8)
    values[0] = (1 << bits) - 1
    given = Rows(values, torch.ones(rows, 1), torch.zeros(rows, 1))
    with torch.inference_mode():
        found = linear.multiply(given, torch.zeros(33))
        assert torch.equal(found, emulated_product(given, linear.weight, linear.scale))


def test_eight_bits_would_be_wrong_where_sums_saturate_and_seven_are_not() -> None:
    weight = torch.full((3, 64), 127, dtype=torch.int8)
    scale = torch.ones(3)
    for bits, right in ((7, True), (8, False)):
        values = torch.full((2, 64), (1 << bits) - 1, dtype=torch.uint8)
        rows = Rows(values, torch.ones(2, 1), torch.zeros(2, 1))
        exact = emulated_product(rows, weight, scale)
        assert torch.equal(saturating_product(rows, weight, scale), exact) is right


def test_saturation_is_noticed_and_seven_bits_are_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    scales = torch.ones(64)
    monkeypatch.setattr(int8, "has_kernel", lambda weight: True)
    monkeypatch.setattr(int8, "_pack", lambda weight, scale: (weight, scale[: len(weight)], scales))
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_vnni": True})

    def kernel(product: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda values, packed: product(Rows(values, scales, scales), packed[0], packed[1])

    monkeypatch.setattr(int8, "_kernel", kernel(saturating_product))
    assert int8.input_bits.__wrapped__() == 7
    monkeypatch.setattr(int8, "_kernel", kernel(emulated_product))
    assert int8.input_bits.__wrapped__() == 8
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    assert int8.input_bits.__wrapped__() == 7  # not by chance exact in the probes


def test_under_an_older_instruction_set_the_products_are_still_exact() -> None:
    """In a process that may not use VNNI, whatever the processor has."""
    program = (
        "import torch; from minilm.blocks.int8 import *; from minilm.blocks import int8\n"
        "torch.manual_seed(0); linear = QuantizedLinear.of(torch.nn.Linear(64, 32))\n"
        "linear.weight.fill_(127); bits = int8.input_bits()\n"
        "values = torch.full((4, 64), (1 << bits) - 1, dtype=torch.uint8)\n"
        "rows = Rows(values, torch.ones(4, 1), torch.zeros(4, 1))\n"
        "found = linear.multiply(rows, torch.zeros(32))\n"
        "print(bits, torch.equal(found, emulated_product(rows, linear.weight, linear.scale)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env={"ONEDNN_MAX_CPU_ISA": "AVX2", "PATH": "", "OMP_NUM_THREADS": "1"},
        cwd=Path(minilm.__file__).parents[1],
    )
    assert done.stdout.split() == ["7", "True"], done.stderr


def test_rows_are_within_half_a_step(bits: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(6, 50)
    x[1], x[2], x[3] = 0.0, 5.0, x[3] + 1000
    rows = quantize_rows(x)
    back = rows.low + rows.scale * rows.values
    assert ((back - x).abs() <= 0.51 * rows.scale + 1e-4).all()
    assert int(rows.values.max()) == (1 << bits) - 1
    assert torch.equal(back[:3][1:], x[1:3])  # equal values exactly


def test_weights_are_within_half_a_step_and_a_row_of_zeros_stays() -> None:
    weight = torch.randn(5, 9)
    weight[2] = 0
    whole, scale = quantize_weight(weight)
    assert whole.dtype == torch.int8
    assert int(whole.abs().max()) == 127
    assert ((whole * scale[:, None] - weight).abs() <= 0.501 * scale[:, None]).all()
    assert not whole[2].any()


def test_nan_and_infinity_are_not_hidden() -> None:
    linear = QuantizedLinear.of(nn.Linear(8, 4))
    for bad in (torch.nan, torch.inf):
        x = torch.randn(3, 8)
        x[1, 2] = bad
        with torch.no_grad():
            finite = linear(x).isfinite().all(-1)
        assert finite.tolist() == [True, False, True]


@pytest.mark.parametrize("name", CLASSES)
def test_every_linear_layer_and_table_is_8_bit(name: str) -> None:
    model = fresh(name)
    small = minilm.quantize(model)
    assert type(small) is type(model)
    assert small is not model
    assert not small.training
    left = {n for n, part in small.named_modules() if type(part) in (nn.Linear, nn.Embedding)}
    assert not left
    assert any(isinstance(part, nn.Linear) for part in model.modules())  # the given one is kept
    expected, found = outputs(model, texts()), outputs(small, texts())
    for one, other in zip(expected, found, strict=True):
        cosine = torch.cosine_similarity(one.flatten(1), other.flatten(1), dim=1)
        assert cosine.mean() > 0.98, name
        assert not torch.equal(one, other)


@pytest.mark.parametrize("name", CLASSES)
def test_scales_are_no_parameters(name: str) -> None:
    model = fresh(name)
    small = minilm.quantize(model)
    assert small.num_parameters() == model.num_parameters()
    without_tables = small.num_parameters(exclude_embeddings=True)
    assert without_tables == model.num_parameters(exclude_embeddings=True)
    assert component_sizes(small) == component_sizes(model)
    parts = components(small)
    counts = [part.parameters for part in parts]
    assert counts == [part.parameters for part in components(model)]
    assert sum(part.bytes for part in parts) == sum(p.nbytes for p in small.parameters())


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("name", CLASSES)
def test_a_text_does_not_depend_on_its_batch(
    name: str, number: int, bits: int, threads: Callable[[int], None]
) -> None:
    threads(number)
    small, batch = minilm.quantize(fresh(name)), texts()
    together = outputs(small, batch)
    for place, text in enumerate(batch):
        for whole, alone in zip(together, outputs(small, [text]), strict=True):
            per_text = whole.shape[0] == len(batch)
            part = whole[place : place + 1] if per_text else whole.split(LENGTHS)[place]
            assert torch.equal(part, alone)


def test_one_range_for_the_whole_batch_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def of_all(x: Tensor) -> Rows:
        low = x.amin().expand(*x.shape[:-1], 1)
        scale = (x.amax() - x.amin()).expand_as(low) / 127
        return Rows(((x - low) / scale).round().to(torch.uint8), scale, low)

    monkeypatch.setattr(int8, "quantize_rows", of_all)
    small, batch = minilm.quantize(fresh("BertModel")), texts()
    states = outputs(small, batch)[0].split(LENGTHS)
    assert not torch.equal(states[0], outputs(small, batch[:1])[0])


def test_padding_is_not_read() -> None:
    small = minilm.quantize(fresh("BertModel"))
    batch = texts()[:4]
    ids = nn.utils.rnn.pad_sequence(batch, batch_first=True, padding_value=0)
    mask = (torch.arange(ids.shape[1]) < torch.tensor(LENGTHS[:4])[:, None]).long()
    with torch.inference_mode():
        found = small(ids, mask).last_hidden_state
        other = small(torch.where(mask.bool(), ids, 77), mask).last_hidden_state
        unmasked = small(ids).last_hidden_state
    packed = outputs(small, batch)[0]
    small.layout = "padded"
    with torch.inference_mode():
        rows = small(ids, mask).last_hidden_state
    assert torch.equal(found, other)
    assert torch.equal(found[mask.bool()], packed)
    assert torch.allclose(rows, found, atol=0.2)  # other sums of attention, then rounded
    assert not torch.allclose(unmasked[1, :1], found[1, :1], atol=0.2)  # a dropped mask shows


def test_a_shared_layer_is_quantised_and_held_once() -> None:
    small = minilm.quantize(fresh("AlbertModel"))
    layers = small.virtual_layers()
    assert len(layers) == 3
    assert len(set(map(id, layers))) == 1
    linears = [part for part in small.modules() if isinstance(part, QuantizedLinear)]
    assert len(linears) == 6 + 2  # one layer, projection and pooler
    partly = fresh("AlbertModel", num_hidden_groups=3, shared_between_groups="attention")
    groups = minilm.quantize(partly).groups
    attentions = {id(group.layers[0].attention) for group in groups}
    feed_forwards = {id(group.layers[0].feed_forward) for group in groups}
    assert (len(attentions), len(feed_forwards)) == (1, 3)


@pytest.mark.parametrize("name", CLASSES)
def test_the_disk_gives_the_same_bits(name: str, tmp_path: Path) -> None:
    small = minilm.quantize(fresh(name))
    small.save_pretrained(tmp_path)
    expected = outputs(small, texts())
    cls = getattr(minilm, name)
    for again in (
        minilm.load(tmp_path),
        cls.from_pretrained(tmp_path, dtype="int8"),
        cls.from_pretrained(tmp_path, dtype="auto"),
        copy.deepcopy(small),
        pickle.loads(pickle.dumps(small)),  # noqa: S301
    ):
        assert all(map(torch.equal, outputs(again, texts()), expected))
    again = minilm.load(tmp_path)
    assert not again.load_report.renamed
    assert not again.load_report.missing
    assert not again.load_report.notes
    zeroed = minilm.quantize(fresh(name))
    with torch.no_grad():
        for parameter in zeroed.parameters():
            parameter.zero_()
    outputs(zeroed, texts())  # what is derived from the weights is made here
    zeroed.load_state_dict(small.state_dict())
    assert all(map(torch.equal, outputs(zeroed, texts()), expected))


def test_a_float_checkpoint_is_quantised_on_load(tmp_path: Path) -> None:
    model = fresh("BertForMaskedLM")
    model.save_pretrained(tmp_path)
    expected = outputs(minilm.quantize(model), texts())
    loaded = minilm.load(tmp_path, dtype="int8")
    assert loaded.dtype == torch.int8
    assert all(map(torch.equal, outputs(loaded, texts()), expected))


def test_an_8_bit_checkpoint_becomes_a_float_model_that_trains(tmp_path: Path) -> None:
    minilm.quantize(fresh("BertForMaskedLM")).save_pretrained(tmp_path)
    model = minilm.load(tmp_path, dtype="float32")
    assert not any(isinstance(part, QuantizedWeight) for part in model.modules())
    ids = torch.randint(1, 120, (2, 9))
    model.train()(ids, labels=ids).loss.backward()
    assert all(p.grad is not None for p in model.parameters())
    assert minilm.load(tmp_path, dtype="bfloat16").dtype == torch.bfloat16


def test_the_file_is_a_quarter(tmp_path: Path) -> None:
    model = fresh("BertModel", hidden_size=256, intermediate_size=1024, vocab_size=4000)
    model.save_pretrained(tmp_path / "float")
    minilm.quantize(model).save_pretrained(tmp_path / "int8")
    sizes = [(tmp_path / n / "model.safetensors").stat().st_size for n in ("int8", "float")]
    assert sizes[0] <= 0.27 * sizes[1]


def test_transformers_refuses_the_directory(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    minilm.quantize(fresh("BertModel")).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="quant_method"):
        transformers.AutoModel.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="quant_method"):
        transformers.BertModel.from_pretrained(tmp_path)


def test_a_file_without_its_marker_or_its_scales_is_refused(tmp_path: Path) -> None:
    minilm.quantize(fresh("BertModel")).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    assert config["quantization_config"]["format"] == "minilm-int8"
    path.write_text(json.dumps({**config, "quantization_config": {"format": "minilm-int8"}}))
    with pytest.raises(minilm.CheckpointError, match="version None"):
        minilm.load(tmp_path)
    del config["quantization_config"]
    path.write_text(json.dumps(config))
    with pytest.raises(minilm.CheckpointError, match="nothing was loaded"):
        minilm.load(tmp_path)
    fresh("BertModel").save_pretrained(tmp_path)
    saved = json.loads(path.read_text())
    path.write_text(
        json.dumps(
            {**saved, "quantization_config": {"format": "minilm-int8", "version": 1}},
        )
    )
    with pytest.raises(minilm.CheckpointError, match="torch.float32, the model has"):
        minilm.load(tmp_path)


def test_training_is_refused() -> None:
    small = minilm.quantize(fresh("BertForMaskedLM"))
    with pytest.raises(minilm.InputError, match="cannot be trained"):
        small.train()
    ids = torch.randint(1, 120, (2, 9))
    with pytest.raises(minilm.InputError, match="no gradients"):
        small(inputs_embeds=torch.randn(2, 9, 64, requires_grad=True))
    assert not small(ids, labels=ids).loss.requires_grad
    with pytest.raises(minilm.InputError, match="quantised already"):
        minilm.quantize(small)
    with pytest.raises(minilm.InputError, match="float32"):
        small.to(torch.bfloat16)
    with pytest.raises(minilm.InputError, match="resize"):
        minilm.quantize(fresh("BertModel")).resize_token_embeddings(130)


def test_a_model_that_cannot_be_moved_stays_as_it_is() -> None:
    small = minilm.quantize(fresh("BertModel"))
    expected = outputs(small, texts())
    for move in (small.half, small.double, lambda: small.to(torch.bfloat16)):
        with pytest.raises(minilm.InputError, match="float32"):
            move()
        assert all(map(torch.equal, outputs(small, texts()), expected))


def _feed_forward(model: Any) -> Any:
    return model.layers[0].feed_forward.intermediate


CHANGES: list[Callable[[Any], object]] = [
    lambda model: _feed_forward(model).weight.data.zero_(),
    lambda model: _feed_forward(model).scale.data.mul_(1.5),
    lambda model: _feed_forward(model).weight.numpy().fill(3),
    lambda model: model.layers[0].attention.query.weight.data.neg_(),
    lambda model: model.layers[0].attention.key.scale.data[3].mul_(9),
    lambda model: model.layers[0].attention.value.bias.data[3].add_(9),
    lambda model: setattr(
        model.layers[0].attention.value, "forward", lambda rows: 0 * rows.scale.expand(-1, 64)
    ),
]


@pytest.mark.parametrize("in_inference_mode", [False, True])
@pytest.mark.parametrize("change", CHANGES)
def test_no_copy_for_the_kernel_outlives_its_weights(
    change: Callable[[Any], object], in_inference_mode: bool
) -> None:
    with torch.inference_mode(in_inference_mode):  # its tensors have no version
        small = minilm.quantize(fresh("BertModel"))
        before = outputs(small, texts())
        change(small)
    found = outputs(small, texts())
    assert not torch.equal(found[0], before[0])
    expected = minilm.quantize(fresh("BertModel"))  # that has no copy yet
    change(expected)
    assert all(map(torch.equal, found, outputs(expected, texts())))


def test_eval_drops_what_a_sample_does_not_show() -> None:
    small = minilm.quantize(fresh("BertModel", hidden_size=128))
    before = outputs(small, texts())
    weight = _feed_forward(small).weight
    weight.data[1] = -weight.data[1]
    assert torch.equal(outputs(small, texts())[0], before[0])  # the one trap, which is documented
    assert not torch.equal(outputs(small.eval(), texts())[0], before[0])


def test_a_student_of_a_quantised_teacher_starts_as_its_float_numbers(tmp_path: Path) -> None:
    small = minilm.quantize(fresh("BertForPreTraining"))
    small.save_pretrained(tmp_path)
    teacher = minilm.BertForPreTraining.from_pretrained(tmp_path, dtype="float32")
    for kind in ("distilbert", "bert"):
        student, expected = (minilm.init_student(t, student=kind) for t in (small, teacher))
        assert all(map(torch.equal, student.parameters(), expected.parameters()))
        assert all(parameter.requires_grad for parameter in student.parameters())


def test_layers_with_packed_weights_give_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    real = inference._apply
    monkeypatch.setattr(inference, "_apply", lambda *a: taken.append(1) or real(*a))
    for name in CLASSES:
        small = minilm.quantize(fresh(name))
        taken.clear()
        expected = outputs(small, texts())
        assert len(taken) == SIZES["num_hidden_layers"], name
        with torch.no_grad():  # every layer runs itself
            found = small(torch.cat(texts()), lengths=LENGTHS).to_tuple()
        assert len(taken) == SIZES["num_hidden_layers"]
        assert all(map(torch.equal, found, expected))


def test_packed_8_bit_layers_apply_any_activation() -> None:
    """Also one that float products fuse: these do not."""
    small = minilm.quantize(fresh("BertModel", num_hidden_layers=1))
    for activation in (gelu, F.relu):
        small.layers[0].feed_forward.activation = activation  # type: ignore[index, union-attr]
        expected = outputs(small, texts())
        with torch.no_grad():
            found = small(torch.cat(texts()), lengths=LENGTHS).to_tuple()
        assert all(map(torch.equal, found, expected))


def test_a_layer_that_is_8_bit_in_parts_runs_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    small = minilm.quantize(fresh("BertModel", num_hidden_layers=1))
    before = outputs(small, texts())[0]
    attention: Any = small.layers[0].attention  # type: ignore[index, union-attr]
    linear = nn.Linear(64, 64).eval()
    linear.weight.data.copy_(float_weight(attention.key))
    linear.bias.data.copy_(attention.key.bias)
    attention.key = linear
    taken: list[int] = []
    monkeypatch.setattr(inference, "_apply", lambda *_: taken.append(1))
    torch.testing.assert_close(outputs(small, texts())[0], before, rtol=0, atol=0.2)
    assert not taken


def test_hooks_see_every_layer_and_change_nothing() -> None:
    small, seen = minilm.quantize(fresh("BertModel")), []
    expected = outputs(small, texts())
    for name, part in small.named_modules():
        if isinstance(part, QuantizedLinear | QuantizedEmbedding):
            part.register_forward_hook(lambda *_, name=name: seen.append(name))
    assert all(map(torch.equal, outputs(small, texts()), expected))
    assert {f"layers.0.attention.{n}" for n in ("query", "key", "value", "output")} <= set(seen)


def test_the_head_compares_with_the_rows_of_the_table() -> None:
    model = fresh("BertForMaskedLM")
    small = minilm.quantize(model)
    logits = outputs(small, texts())[0]
    assert not any("decoder" in name for name, _ in small.named_parameters())
    with torch.no_grad():
        small.encoder.embeddings.word.scale[7] *= 100
    assert not torch.equal(outputs(small, texts())[0][:, 7], logits[:, 7])


def test_without_the_kernel_the_emulation_gives_the_same(
    monkeypatch: pytest.MonkeyPatch, bits: int
) -> None:
    small = minilm.quantize(fresh("AlbertForPreTraining"))
    expected = outputs(small, texts())
    monkeypatch.setattr(int8, "has_kernel", lambda weight: False)
    small.eval()  # drops what was prepared for the kernel
    assert all(map(torch.equal, outputs(small, texts()), expected))


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(main, list(map(str, arguments)))
    assert result.exit_code == code, result.output
    return result.output


def test_the_commands(tmp_path: Path) -> None:
    source, small = tmp_path / "float", tmp_path / "int8"
    fresh("BertModel").save_pretrained(source)
    assert "model.safetensors" in run("convert", source, small, "--dtype", "int8")
    again = tmp_path / "again"
    run("convert", small, again)
    weights = "model.safetensors"
    assert (again / weights).read_bytes() == (small / weights).read_bytes()
    description = json.loads(run("inspect", small, "--json"))
    assert description["dtype"] == "int8"
    report = json.loads(run("verify", small, "--float", source, "--json"))
    assert report["passed"]
    assert report["rows"]
    other = tmp_path / "other"
    model = fresh("BertModel")
    with torch.no_grad():
        model.layers[1].attention.key.weight += 0.1
    model.save_pretrained(other)
    failed = json.loads(run("verify", small, "--float", other, "--json", code=1))
    assert failed["first_divergence"]["module"] == "weight of layers.1.attention.key"
    run("verify", source, "--float", source, code=2)
    run("verify", small, "--as", "bert-base-uncased", code=2)
    run("convert", small, tmp_path / "back", "--dtype", "float32")
    assert minilm.load(tmp_path / "back").dtype == torch.float32


def test_albert_is_shared_otherwise_before_it_is_quantised(tmp_path: Path) -> None:
    fresh("AlbertModel", num_hidden_groups=3).save_pretrained(tmp_path / "a")
    run("convert", tmp_path / "a", tmp_path / "b", "--dtype", "int8", "--share", "all")
    loaded = minilm.load(tmp_path / "b")
    assert loaded.dtype == torch.int8
    assert len(loaded.groups) == 1


def test_vectors_of_a_real_model_stay_where_they_are(minilm_l6_dir: Path, bits: int) -> None:
    sentences = [
        "A man is playing a guitar on the street.",
        "Stocks fell sharply after the announcement.",
        "The cat sat on the mat.",
        "How do I reset my password?",
        "It 's a charming and often affecting journey.",
        "no, it was not what we had expected",
    ]
    expected = minilm.Encoder.from_pretrained(minilm_l6_dir).encode(
        sentences, convert_to_tensor=True
    )
    small = minilm.Encoder.from_pretrained(minilm_l6_dir, dtype="int8")
    found = small.encode(sentences, convert_to_tensor=True)
    cosines = torch.cosine_similarity(expected, found)
    assert cosines.mean() >= 0.995
    assert cosines.min() >= 0.99


def test_finetuning_an_8_bit_directory_says_what_to_do(tmp_path: Path) -> None:
    from saved import save_tiny

    save_tiny(tmp_path / "float", "BertModel")
    run("convert", tmp_path / "float", tmp_path / "int8", "--dtype", "int8")
    rows = "sentence\tlabel\n" + "a b\t0\nb a\t1\n" * 4
    (tmp_path / "train.tsv").write_text(rows)
    options = ("--train", tmp_path / "train.tsv", "--dev", tmp_path / "train.tsv")
    text = run(
        *("finetune", "--task", "classification", "--model", tmp_path / "int8"),
        *("--format", "glue:sst2", *options, "--output", tmp_path / "out"),
        code=2,
    )
    assert "quantised to 8 bits" in text
    assert "--dtype float32" in text
