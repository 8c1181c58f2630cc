"""The caller's choice of layout: what every module sees, what is refused, what never changes."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call, grad, vmap

import minilm
from minilm.errors import InputError
from minilm.models.encoder import LayerRun
from minilm.models.pretrained import PretrainedModel
from oracle import hugging_face
from tiny import ALL_CLASSES, architecture, packed, ragged, tiny

BASES = ["BertModel", "DistilBertModel", "AlbertModel"]
CLASSIFIERS = [name.replace("Model", "ForSequenceClassification") for name in BASES]


def batch_for(name: str, rows: tuple[int, ...] = (7, 3, 1, 7, 5, 2)) -> dict[str, Tensor]:
    batch = ragged(rows)
    if architecture(name) == "distilbert":
        del batch["token_type_ids"]
    if name.endswith("MultipleChoice"):
        batch = {key: value.unflatten(0, (-1, 3)) for key, value in batch.items()}
    return batch


@pytest.mark.parametrize("name", ALL_CLASSES)
def test_all_layouts_compute_the_same(name: str) -> None:
    """Outputs and gradients of every parameter, with masks of every kind, in float64."""
    model = tiny(name)
    batch = batch_for(name)
    masks = {"right": batch["attention_mask"], "full": torch.ones_like(batch["attention_mask"])}
    holes = batch["attention_mask"].clone()
    holes.flatten()[3] = 0
    for mask in ({**masks, "holes": holes}).values():
        results: list[list[Tensor]] = []
        for choice in ("auto", "padded", "packed"):
            model.layout = choice  # type: ignore[assignment]
            assert model.base.layout == choice
            outputs = model(**{**batch, "attention_mask": mask}).to_tuple()
            loss = sum(value[value.abs() < 1e9].sin().sum() for value in outputs)
            results.append([*outputs, *torch.autograd.grad(loss, list(model.parameters()))])
        for other in results[1:]:
            for found, expected in zip(other, results[0], strict=True):
                torch.testing.assert_close(found, expected, rtol=1e-13, atol=2e-13)


def outputs_of_modules(model: nn.Module, run: Any) -> dict[str, list[Tensor]]:
    """The first tensor that each module returns, once for each call, by module name."""
    seen: dict[str, list[Tensor]] = {}
    hooks = []
    for name, module in model.named_modules():

        def keep(_: nn.Module, __: Any, output: Any, name: str = name) -> None:
            first = output if isinstance(output, Tensor) else output[0]
            seen.setdefault(name, []).append(first.detach())

        hooks.append(module.register_forward_hook(keep))
    run()
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize("name", [n for n in ALL_CLASSES if not n.endswith("MultipleChoice")])
def test_padded_modules_see_what_those_of_transformers_see(name: str) -> None:
    """Every module that both have, every layer, the last one included: (B, S, H) in order."""
    ours = tiny(name)
    ours.layout = "padded"
    theirs = hugging_face(ours)
    batch = batch_for(name)
    found = outputs_of_modules(ours, lambda: ours(**batch))
    wanted = outputs_of_modules(theirs, lambda: theirs(**batch))
    mask = batch["attention_mask"].bool()
    compared = set()
    for module in found:
        hub = _module_of_theirs(ours, module)
        if hub not in wanted:
            continue
        compared.add(hub)
        assert len(found[module]) == len(wanted[hub])
        for one, other in zip(found[module], wanted[hub], strict=True):
            if one.shape != other.shape:
                one, other = torch.broadcast_tensors(one, other)
            if one.shape[:2] == mask.shape:
                one, other = one[mask], other[mask]
            torch.testing.assert_close(one, other, rtol=0, atol=1e-10, msg=hub)
    layers = {
        "bert": "encoder.layer.2.output.dense",
        "distilbert": "transformer.layer.2.ffn.lin2",
        "albert": "full_layer_layer_norm",
    }
    last = layers[architecture(name)]
    assert any(hub.endswith(last) for hub in compared)
    assert len(compared) > 12


def _module_of_theirs(ours: PretrainedModel, module: str) -> str:
    """The name of the module that holds the same parameters in transformers."""
    parameter = f"{ours.own_prefix}{module}.weight"
    if not ours.hub_names.knows(parameter):
        return "?"
    return ours.hub_names.to_hub(parameter, not ours.own_prefix).removesuffix(".weight")


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_lesion_in_the_last_layer_does_what_it_does_in_transformers(name: str) -> None:
    ours = tiny(name)
    ours.layout = "padded"
    theirs = hugging_face(ours)

    def lesion(_: nn.Module, __: Any, output: Any) -> Any:
        hidden = output if isinstance(output, Tensor) else output[0]
        hidden = hidden.clone()
        hidden[:, 0, ::2] = 0
        return hidden if isinstance(output, Tensor) else (hidden, *output[1:])

    stacks = {
        "bert": lambda: theirs.bert.encoder.layer,
        "distilbert": lambda: theirs.distilbert.transformer.layer,
        "albert": lambda: theirs.albert.encoder.albert_layer_groups[0].albert_layers,
    }
    list(ours.base.virtual_layers())[-1].register_forward_hook(lesion)
    stacks[architecture(name)]()[-1].register_forward_hook(lesion)
    batch = batch_for(name)
    unharmed = tiny(name)(**batch).logits
    logits = ours(**batch).logits
    torch.testing.assert_close(logits, theirs(**batch).logits, rtol=0, atol=1e-10)
    assert (logits - unharmed).abs().max() > 1e-3


@pytest.mark.parametrize("name", BASES)
def test_padded_tables_are_read_for_every_token_of_every_text(name: str) -> None:
    """Also without a mask, token types and positions: what per-sample gradients need."""
    model = tiny(name)
    model.layout = "padded"
    shapes = {}
    for part in ("word", "position", "token_type"):
        if (table := getattr(model.embeddings, part)) is not None:
            table.register_forward_hook(
                lambda m, args, out, part=part: shapes.update({part: out.shape})
            )
    model(torch.ones(2, 5, dtype=torch.int64))
    assert set(shapes.values()) == {torch.Size((2, 5, model.embeddings.embedding_size))}
    assert len(shapes) == 3 - (name == "DistilBertModel")


def test_what_a_layout_cannot_do_is_refused() -> None:
    model = tiny("BertModel")
    batch = ragged()
    with pytest.raises(InputError, match="layout is 'rows': expected 'auto', 'padded' or 'packed'"):
        model.layout = "rows"  # type: ignore[assignment]
    model.layout = "padded"
    with pytest.raises(InputError, match="layout = 'padded' needs padded rows"):
        model(**packed(batch))
    model.layout = "packed"
    with pytest.raises(InputError, match="attention maps, an unattended first token"):
        model(**batch, output_attentions=True)
    left = {key: value.flip(1) for key, value in batch.items()}
    with pytest.raises(InputError, match="set it to 'auto'"):
        model(**left)
    with pytest.raises(InputError, match="recorded or transformed"):
        model.to("meta")(torch.ones(2, 3, dtype=torch.int64, device="meta"))


def test_packed_packs_without_padding_too() -> None:
    model = tiny("BertModel")
    model.layout = "packed"
    shapes = []
    model.layers[0].register_forward_hook(lambda m, args, out: shapes.append(out.shape))
    model(torch.ones(2, 5, dtype=torch.int64))
    assert [shape[0] for shape in shapes] == [10]


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_recorders_and_transforms_see_the_mask(name: str) -> None:
    """Recorded with a mask of ones, right with any other."""
    model = tiny(name)
    model.requires_grad_(False)
    batch = batch_for(name)
    inputs = (batch["input_ids"], batch["attention_mask"])
    expected = model(*inputs).logits
    ones = (inputs[0], torch.ones_like(inputs[1]))

    class Logits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
            return self.model(ids, mask).logits

    recorded = {
        "export": torch.export.export(Logits(), ones).module(),
        "make_fx": torch.fx.experimental.proxy_tensor.make_fx(Logits())(*ones),
    }
    for how, program in recorded.items():
        torch.testing.assert_close(program(*inputs), expected, rtol=0, atol=1e-10, msg=how)
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        fakes = [fake.from_tensor(x) for x in inputs]
        assert model(*fakes).logits.shape == expected.shape
    meta = tiny(name).to("meta")
    assert meta(*(x.to("meta") for x in inputs)).logits.shape == expected.shape


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_gradients_of_each_example_are_those_of_a_loop(name: str) -> None:
    model = tiny(name)
    batch = batch_for(name)
    labels = torch.tensor([0, 1, 1, 0, 1, 0])
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(weights: dict[str, Tensor], ids: Tensor, mask: Tensor, label: Tensor) -> Tensor:
        out = functional_call(model, weights, (ids[None], mask[None]), {"labels": label[None]})
        return out.loss

    inputs = (batch["input_ids"], batch["attention_mask"], labels)
    each = vmap(grad(loss), in_dims=(None, 0, 0, 0))(parameters, *inputs)
    for number in range(6):
        one = grad(loss)(parameters, *(x[number] for x in inputs))
        for key, value in one.items():
            torch.testing.assert_close(each[key][number], value, rtol=0, atol=1e-10)


# torch's forward mode scripts a few of its own formulas
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_derivatives_of_second_order_with_the_explicit_execution(name: str) -> None:
    """A Hessian-vector product: forward over reverse, reverse over reverse, by differences."""
    model = tiny(name)
    batch = batch_for(name)
    vectors = model.get_input_embeddings()(batch.pop("input_ids")).detach()
    direction = torch.randn_like(vectors)

    def score(x: Tensor) -> Tensor:
        return model(inputs_embeds=x, **batch).logits.sin().sum()

    with minilm.attention("explicit"):
        forward = torch.func.jvp(grad(score), (vectors,), (direction,))[1]
        leaf = vectors.clone().requires_grad_()
        (first,) = torch.autograd.grad(score(leaf), leaf, create_graph=True)
        (reverse,) = torch.autograd.grad(first, leaf, direction)
    step = 1e-5
    both = []
    for sign in (1, -1):
        leaf = (vectors + sign * step * direction).requires_grad_()
        both.append(torch.autograd.grad(score(leaf), leaf)[0])
    differences = (both[0] - both[1]) / (2 * step)
    torch.testing.assert_close(forward, reverse, rtol=0, atol=1e-9)
    torch.testing.assert_close(forward, differences, rtol=1e-4, atol=1e-6)
    assert forward.abs().max() > 1e-3


@pytest.mark.parametrize("choice", ["auto", "padded"])
@pytest.mark.parametrize("name", ["BertForTokenClassification", "AlbertForMaskedLM", *BASES])
def test_returned_hidden_states_have_gradients_on_padded_batches(name: str, choice: str) -> None:
    """As in transformers: each returned state, and the last, lies on the way to the output."""
    ours = tiny(name)
    ours.layout = choice  # type: ignore[assignment]
    theirs = hugging_face(ours)
    batch = batch_for(name)
    mask = batch["attention_mask"].bool()
    results = []
    for model in (ours, theirs):
        out = model(**batch, output_hidden_states=True)
        wanted = [*out.hidden_states]
        last = out[0][mask]
        gradients = torch.autograd.grad(last.sin().sum(), wanted)
        results.append([gradient[mask] for gradient in gradients])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
        assert found.abs().max() > 0


@pytest.mark.parametrize("name", ["bert-mini", "distilbert-mini", "albert-1x12-mini"])
def test_a_text_alone_and_in_any_packed_batch_is_the_same_to_the_bit(name: str) -> None:
    """With one thread, from four tokens on; for fewer the processor's library takes another way."""
    model = minilm.load(Path(__file__).parent.parent / "weights" / name).base
    generator = torch.Generator().manual_seed(2)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad():
            for size in (3, 20):
                lengths = torch.randint(4, 60, (size,), generator=generator)
                ids = torch.randint(5, 8000, (int(lengths.sum()),), generator=generator)
                states = model(ids, lengths=lengths).last_hidden_state
                for text, together in zip(
                    ids.split(lengths.tolist()), states.split(lengths.tolist()), strict=True
                ):
                    alone = model(text, lengths=[len(text)]).last_hidden_state
                    assert torch.equal(alone, together)
    finally:
        torch.set_num_threads(threads)


def test_one_call_passes_through_few_functions() -> None:
    """What a reader has to know to follow it, counted in a call of an ALBERT with a mask."""
    model = tiny("AlbertForMaskedLM", torch.float32)
    batch = ragged()
    seen = set()

    def count(frame: Any, event: str, _: Any) -> None:
        code = frame.f_code
        if event == "call" and "/minilm/" in code.co_filename.replace("\\", "/"):
            seen.add((code.co_filename, code.co_qualname))

    with torch.no_grad():
        sys.setprofile(count)
        try:
            model(batch["input_ids"], batch["attention_mask"])
        finally:
            sys.setprofile(None)
    assert 10 < len(seen) <= 20, sorted(name for _, name in seen)


@pytest.mark.parametrize("choice", ["auto", "padded", "packed"])
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_hook_on_the_encoder_decides_what_the_head_reads(name: str, choice: str) -> None:
    model = tiny(name)
    model.layout = choice  # type: ignore[assignment]
    batch = batch_for(name)
    before = model(**batch).logits

    def halve(_: nn.Module, __: Any, output: Any) -> None:
        for key, value in output.items():
            output[key] = value / 2

    model.encoder.register_forward_hook(halve)
    assert (model(**batch).logits - before).abs().max() > 1e-3


class Shallow(minilm.BertModel):
    """Leaves after two of its three layers."""

    def run_layers(self, hidden: Tensor, run: LayerRun) -> Tensor:
        for layer in self.layers[:2]:
            hidden = run(layer, hidden)
        return hidden


class Twice(minilm.BertModel):
    def run_layers(self, hidden: Tensor, run: LayerRun) -> Tensor:
        return super().run_layers(super().run_layers(hidden, run), run)


def test_a_class_that_runs_its_layers_otherwise_is_right_or_refused() -> None:
    reference = tiny("BertForSequenceClassification")
    state, batch = reference.state_dict(), ragged()
    shallow = type("Left", (minilm.BertForSequenceClassification,), {"encoder_class": Shallow})
    twice = type("Again", (minilm.BertForSequenceClassification,), {"encoder_class": Twice})
    models = [cls(reference.config).double().eval() for cls in (shallow, twice)]
    for model in models:
        model.load_state_dict(state)
    reference.encoder.layers = reference.encoder.layers[:2]
    torch.testing.assert_close(models[0](**batch).logits, reference(**batch).logits)
    with pytest.raises(InputError, match="more layers than virtual_layers lists"):
        models[1](**batch)
    models[1].layout = "padded"
    assert models[1](**batch).logits.shape == (5, 2)


class Deaf(nn.Module):
    """A wrapper that hands on less than it was given."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, hidden: Tensor, layout: Any, *_: Any) -> Tensor:
        return self.layer(hidden, layout)


def test_a_wrapper_that_takes_no_notice_is_named() -> None:
    model = tiny("BertForSequenceClassification")
    expected = model(**ragged()).logits
    model.encoder.layers[-1] = Deaf(model.encoder.layers[-1])
    with pytest.raises(InputError, match="Deaf took no notice of first_only"):
        model(**ragged())
    with pytest.raises(InputError, match="Deaf took no notice of probs"):
        model(**ragged(), output_attentions=True)
    model.layout = "padded"
    torch.testing.assert_close(model(**ragged()).logits, expected)


def test_compiled_training_with_checkpointing_and_a_mask() -> None:
    model = tiny("BertModel", torch.float32, hidden_dropout_prob=0.0)
    for layer in model.layers:
        layer.attention.dropout = 0.0
    model.train().gradient_checkpointing_enable()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    gradients = []
    for run in (model, compiled):
        loss = run(**ragged()).pooler_output.sin().sum()
        gradients.append(torch.autograd.grad(loss, list(model.parameters())))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_early_graphs_see_the_mask_too() -> None:
    """make_fx before dispatch keeps its mode elsewhere."""
    model = tiny("BertModel").requires_grad_(False)
    batch = ragged()
    ids, mask = batch["input_ids"], batch["attention_mask"]

    def states(ids: Tensor, mask: Tensor) -> Tensor:
        return model(ids, mask).last_hidden_state

    graph = torch.fx.experimental.proxy_tensor.make_fx(states, pre_dispatch=True)
    program = graph(ids, torch.ones_like(mask))
    torch.testing.assert_close(program(ids, mask), states(ids, mask), rtol=0, atol=1e-10)
