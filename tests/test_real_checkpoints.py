"""Real weights, read by both libraries from the same files, and real sizes."""

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

import minilm
from minilm.loader import STEMS
from minilm.models.pretrained import PretrainedModel
from minilm.parity import (
    MASKS,
    Inputs,
    ParityReport,
    compare,
    observe_theirs,
    ragged_inputs,
    rows_of,
    stored_classes,
    twin,
    verify,
)
from oracle import hugging_face

TEXTS = [
    "A lighthouse keeper writes down the weather every evening.",
    "Which of the two is heavier?",
    "Tea.",
    "The committee postponed its decision, although nobody had asked for more time.",
]
REACTIONS = [
    "CC(=O)O.OCC>>CC(=O)OCC",
    "BrCCCO.C[Si](C)(C)Cl>>C[Si](C)(C)OCCCBr",
    "c1ccccc1.ClCl>>Clc1ccccc1",
    "C=C>>CC",
]
CHECKPOINTS = {
    "minilm_l6_dir": ["BertModel"],
    "rxnmapper_dir": ["AlbertModel", "AlbertForMaskedLM"],
    "rxnfp_pretrained_dir": ["BertModel", "BertForPreTraining"],
    "rxnfp_ft_dir": ["BertModel"],
    "rxnfp_classifier_dir": ["BertModel", "BertForSequenceClassification"],
}


@pytest.fixture(params=CHECKPOINTS)
def directory(request: pytest.FixtureRequest) -> Path:
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Path)
    return found


def rows_of_ids(directory: Path) -> list[list[int]]:
    """Texts or reactions in the checkpoint's own vocabulary."""
    words = (directory / "vocab.txt").read_text(encoding="utf-8").splitlines()
    number = {word: i for i, word in enumerate(words)}
    if len(words) > 1000:
        tokens = [re.findall(r"\w+|[^\w\s]", text.lower()) for text in TEXTS]
    else:
        tokens = [re.findall(r"\[[^]]+]|Br|Cl|>>|.", reaction) for reaction in REACTIONS]
    rows = [["[CLS]", *row, "[SEP]"] for row in tokens]
    return [[number.get(token, number["[UNK]"]) for token in row] for row in rows]


def right_padded(rows: list[list[int]]) -> Inputs:
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
    attended = torch.arange(ids.shape[1]) < torch.tensor([len(row) for row in rows])[:, None]
    return Inputs("right", ids, attended, torch.zeros_like(ids))


def test_verify_finds_every_head_and_no_difference(
    directory: Path, request: pytest.FixtureRequest
) -> None:
    report = verify(directory)
    assert report.passed, str(report)
    assert report.notes == []
    seen = {(row.model, row.dtype, row.mask) for row in report.rows}
    classes = CHECKPOINTS[request.node.callspec.params["directory"]]
    assert [cls.__name__ for cls in stored_classes(directory)] == classes
    assert seen == {
        (name, dtype, mask)
        for name in classes
        for dtype in ("float64", "float32")
        for mask in MASKS
    }
    for row in report.rows:
        if row.dtype == "float64":
            assert row.difference <= 1e-10, str(row)
        elif row.call == "explicit" and row.module != "loss":
            assert row.difference <= 1e-5, str(row)


def test_real_inputs_agree_to_the_letter_of_the_promise(directory: Path) -> None:
    """Float32: states within 1e-5, logits within 2e-5 where the arithmetic is the same.

    Fused attention adds up in another order, which on some processors (AVX-512) is a tenth over
    that on rxnmapper; there the rounding of transformers itself is allowed for, as in `verify`.
    """
    inputs = right_padded(rows_of_ids(directory))
    for cls in stored_classes(directory):
        name = cls.__name__
        seen, exact = (
            observe_theirs(twin(directory, name, dtype), inputs)
            for dtype in (torch.float32, torch.float64)
        )
        rows = rows_of(cls.from_pretrained(directory), seen, inputs, exact=exact)
        assert {row.call for row in rows} >= {"explicit", "padded", "packed"}
        for row in rows:
            strict = 2e-5 if row.module.endswith("logits") else 1e-5
            if row.call == "explicit" and row.module != "loss":
                assert row.difference <= strict, str(row)
            assert row.difference <= min(row.tolerance, 3 * strict), str(row)


def test_a_deeper_albert_from_the_same_weights(rxnmapper_dir: Path) -> None:
    import transformers

    model = minilm.AlbertModel.from_pretrained(rxnmapper_dir, dtype="float64", num_hidden_layers=15)
    config = transformers.AlbertConfig.from_pretrained(rxnmapper_dir, num_hidden_layers=15)
    theirs = transformers.AlbertModel.from_pretrained(
        rxnmapper_dir, config=config, dtype=torch.float64, attn_implementation="eager"
    )
    report = compare(model, theirs.eval(), [ragged_inputs(model.config, "right")])
    assert report.passed, str(report)
    assert any(row.module == "layer 14" for row in report.rows)


def test_the_first_layers_of_a_bert(minilm_l6_dir: Path) -> None:
    full = minilm.BertModel.from_pretrained(minilm_l6_dir, dtype="float64")
    short = minilm.BertModel.from_pretrained(minilm_l6_dir, dtype="float64", num_hidden_layers=2)
    ids = right_padded(rows_of_ids(minilm_l6_dir)).input_ids
    states = full(ids, output_hidden_states=True).hidden_states
    assert torch.equal(short(ids).last_hidden_state, states[2])


def test_what_is_saved_again_is_the_same_to_transformers(directory: Path, tmp_path: Path) -> None:
    model = minilm.load(directory)
    model.save_pretrained(tmp_path)
    theirs, loading = _with_loading_info(type(model).__name__, tmp_path)
    assert not any(loading.values()), loading
    inputs = right_padded(rows_of_ids(directory))
    report = compare(model, theirs, [inputs], calls=["explicit"])
    assert report.passed, str(report)


def _with_loading_info(name: str, directory: Path) -> tuple[PretrainedModel, dict[str, object]]:
    import transformers

    theirs, loading = getattr(transformers, name).from_pretrained(
        directory, attn_implementation="eager", output_loading_info=True
    )
    return theirs.eval(), loading


def test_mean_pooled_sentences_mean_what_they_should(minilm_l6_dir: Path) -> None:
    """The checkpoint works, not only agrees: a paraphrase is nearer than another topic."""
    model = minilm.load(minilm_l6_dir)
    tokenizer = minilm.Tokenizer.from_pretrained(minilm_l6_dir)
    batch = tokenizer(["A man plays the guitar.", "Someone is playing music.", "Rain is expected."])
    with torch.no_grad():
        states = model(**batch).last_hidden_state
    vectors: Tensor = torch.nn.functional.normalize(
        states.sum(1) / batch["attention_mask"].sum(1, keepdim=True), dim=-1
    )
    near, far = vectors[0] @ vectors[1], vectors[0] @ vectors[2]
    assert near > 0.5 > 0.3 > far


def base_report(stem: str) -> ParityReport:
    torch.manual_seed(0)
    model = getattr(minilm, f"{stem}Model")(getattr(minilm, f"{stem}Config")()).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.01)
    batches = [ragged_inputs(model.config, mask) for mask in ("none", "left")]
    return compare(model, hugging_face(model), batches)


@pytest.mark.parametrize("stem", STEMS.values())
def test_base_size_in_float32(stem: str) -> None:
    """The published sizes with random weights; biases and norms are drawn too."""
    report = base_report(stem)
    assert report.passed, str(report)
    assert max(row.difference for row in report.rows) <= 1e-5
