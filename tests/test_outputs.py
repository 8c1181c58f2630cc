"""Outputs behave like Hugging Face's ModelOutput: mappings with attributes and numbers."""

import copy
import io
import pickle
from collections.abc import Mapping

import pytest
import torch
from torch.utils import _pytree as pytree

from minilm.outputs import EncoderOutput, HeadOutput, QuestionAnsweringOutput
from tiny import ALL_CLASSES, tiny


def test_fields_that_are_none_are_no_items() -> None:
    out = HeadOutput(logits=torch.ones(2, 3))
    assert list(out.keys()) == list(out) == ["logits"]
    assert out[0] is out["logits"] is out.logits is out.get("logits")
    assert len(out) == 1
    assert out.loss is None
    assert "loss" not in out
    assert out.get("loss", 5) == 5
    with pytest.raises(KeyError, match="loss"):
        out["loss"]
    with pytest.raises(IndexError):
        out[1]
    with pytest.raises(AttributeError, match="HeadOutput has no 'start_logits', only logits"):
        _ = out.start_logits


def test_loss_comes_first_and_everything_unpacks() -> None:
    out = QuestionAnsweringOutput(loss=0, start_logits=1, end_logits=2)
    assert out.to_tuple() == out[:] == (0, 1, 2)
    loss, *_ = out.to_tuple()
    assert loss == 0
    assert out[1:] == (1, 2)
    assert list(out.items()) == [("loss", 0), ("start_logits", 1), ("end_logits", 2)]


def test_items_and_attributes_can_be_set() -> None:
    out = HeadOutput(logits=torch.zeros(2))
    out.logits = torch.ones(2)
    assert float(out["logits"].sum()) == 2
    out["loss"] = torch.tensor(1.0)
    assert float(out.loss) == 1
    assert isinstance(out, dict)
    assert isinstance(out, Mapping)


def test_other_libraries_rebuild_outputs() -> None:
    """From a dictionary, or from pairs, as gathering over devices and changes of dtype do."""
    out = HeadOutput(loss=torch.tensor(1.0), logits=torch.zeros(2))
    for again in (
        type(out)({name: value.double() for name, value in out.items()}),
        type(out)((name, value.double()) for name, value in out.items()),
        copy.copy(out),
        copy.deepcopy(out),
        pickle.loads(pickle.dumps(out)),  # noqa: S301
    ):
        assert type(again) is HeadOutput
        assert list(again) == ["loss", "logits"]
        assert float(again.loss) == 1


def test_outputs_pass_through_tree_functions_with_what_heads_read() -> None:
    model = tiny("BertForMaskedLM")
    encoded = model.base(torch.ones(2, 3, dtype=torch.int64), reads="all")
    doubled = pytree.tree_map_only(torch.Tensor, lambda value: value * 2, encoded)
    assert isinstance(doubled, EncoderOutput)
    assert torch.equal(doubled.last_hidden_state, 2 * encoded.last_hidden_state)
    assert doubled.layout is encoded.layout
    paths, _ = pytree.tree_flatten_with_path(HeadOutput(logits=torch.ones(1)))
    assert pytree.keystr(paths[0][0]) == "['logits']"


def test_an_exported_program_with_outputs_is_saved_and_loaded() -> None:
    model = tiny("AlbertForSequenceClassification")
    ids, mask = torch.ones(2, 5, dtype=torch.int64), torch.ones(2, 5, dtype=torch.int64)
    program = torch.export.export(model, (ids, mask))
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    mask[0, 3:] = 0
    again = torch.export.load(file).module()(ids, mask)
    torch.testing.assert_close(again.logits, model(ids, mask).logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ALL_CLASSES)
def test_return_dict_false_gives_a_tuple(name: str) -> None:
    model = tiny(name)
    shape = (1, 2, 4) if name.endswith("MultipleChoice") else (2, 4)
    ids = torch.ones(shape, dtype=torch.int64)
    wanted = model(ids, output_hidden_states=True)
    values = model(ids, output_hidden_states=True, return_dict=False)
    assert type(values) is tuple
    for value, expected in zip(values, wanted.values(), strict=True):
        for one, other in zip(pytree.tree_leaves(value), pytree.tree_leaves(expected), strict=True):
            assert torch.equal(one, other)
    assert isinstance(model(ids, return_dict=True), dict)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_a_traced_model_returns_its_items() -> None:
    """jit tracing takes outputs as mappings, for other lengths and masks than those it saw."""
    model = tiny("DistilBertForSequenceClassification", torch.float32)
    ids, mask = torch.ones(2, 5, dtype=torch.int64), torch.ones(2, 5, dtype=torch.int64)
    traced = torch.jit.trace(model, (ids, mask), strict=False, check_trace=False)
    ids, mask = torch.full((3, 7), 9), torch.ones(3, 7, dtype=torch.int64)
    mask[0, 2:] = 0
    logits = traced(ids, mask)["logits"]
    torch.testing.assert_close(logits, model(ids, mask).logits, rtol=0, atol=1e-5)


def test_a_subclass_keeps_the_fields_of_its_base() -> None:
    class Scored(HeadOutput):
        score: torch.Tensor | None

    out = Scored(logits=torch.ones(1), score=torch.zeros(1))
    assert out.loss is None
    assert out.logits is out[0]
    assert out.score is out[1]


def test_outputs_are_taken_for_dictionaries_in_order_by_older_sharding() -> None:
    from torch.distributed.utils import _apply_to_tensors

    out = HeadOutput(loss=torch.ones(1), logits=torch.ones(2))
    doubled = _apply_to_tensors(lambda value: value * 2, out)
    assert isinstance(doubled, HeadOutput)
    assert float(doubled.logits.sum()) == 4


def test_what_is_made_of_an_output_keeps_no_graph() -> None:
    model = tiny("BertModel")
    out = model(torch.ones(2, 3, dtype=torch.int64))
    assert not vars(out)
    detached = pytree.tree_map(torch.Tensor.detach, out)
    assert not any(value.requires_grad for value in detached.values())
