"""What the engine trains: masked LM and distillation on packed batches."""

import copy
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import minilm
from minilm.data.batches import TokenBatch
from minilm.errors import InputError
from minilm.learners.distillation import DistillationLearner
from minilm.learners.masked_lm import MaskedLMLearner
from minilm.losses.distillation import DistillationLoss, distillation_terms
from minilm.models.pretrained import PretrainedModel
from minilm.models.tasks import ForMaskedLM
from minilm.training.learner import Learner
from tiny import tiny

V = 61
LENGTHS = (7, 3, 1, 7, 5)
STUDENTS = ["BertForMaskedLM", "DistilBertForMaskedLM", "AlbertForMaskedLM"]
EXACT: dict[str, Any] = {"rtol": 0, "atol": 1e-10}


def model(class_name: str, seed: int = 5, **changes: Any) -> ForMaskedLM:
    """Every parameter drawn anew, from this seed."""
    found = tiny(class_name, **changes)
    torch.manual_seed(seed)
    for parameter in found.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    assert isinstance(found, ForMaskedLM)
    return found


def teacher_model(class_name: str = "BertForMaskedLM", **changes: Any) -> PretrainedModel:
    return tiny(class_name, **{"hidden_dropout_prob": 0.5, **changes})


def batch_of(lengths: tuple[int, ...] = LENGTHS, types: bool = False) -> TokenBatch:
    generator = torch.Generator().manual_seed(3)
    tokens = sum(lengths)
    ids = torch.randint(1, V, (tokens,), generator=generator)
    labels = torch.where(torch.arange(tokens) % 3 == 1, (ids * 7) % V, -100)
    return TokenBatch(
        np.arange(len(lengths)),
        ids,
        torch.tensor(lengths, dtype=torch.int64),
        labels,
        torch.arange(tokens) % 2 if types else None,
    )


def part(batch: TokenBatch, first: int, last: int) -> TokenBatch:
    """Some of the sequences of a batch."""
    begin, end = int(batch.lengths[:first].sum()), int(batch.lengths[:last].sum())
    return TokenBatch(
        batch.samples[first:last],
        batch.input_ids[begin:end],
        batch.lengths[first:last],
        batch.labels[begin:end],
    )


def distiller(
    class_name: str = "DistilBertForMaskedLM",
    loss: DistillationLoss | None = None,
    teacher: PretrainedModel | None = None,
    **changes: Any,
) -> DistillationLearner:
    student = model(class_name, seed=8, **changes)
    return DistillationLearner(student, teacher or teacher_model(), loss or DistillationLoss())


def learner_of(kind: str) -> Learner:
    if kind == "masked_lm":
        return MaskedLMLearner(model("BertForMaskedLM"))
    return distiller(loss=DistillationLoss(mse=0.5))


def assert_same_gradients(one: Tensor, other: Tensor, learner: torch.nn.Module) -> None:
    parameters = [p for p in learner.parameters() if p.requires_grad]
    options: dict[str, Any] = {"retain_graph": True, "materialize_grads": True}
    ours = torch.autograd.grad(one, parameters, **options)
    theirs = torch.autograd.grad(other, parameters, **options)
    for mine, wanted in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, wanted, **EXACT)


@pytest.mark.parametrize("class_name", STUDENTS)
@pytest.mark.parametrize("types", [False, True])
def test_masked_lm_is_the_loss_of_the_model(class_name: str, types: bool) -> None:
    if class_name.startswith("Distil") and types:
        types = False  # it has no token types
    learner = MaskedLMLearner(model(class_name))
    batch = batch_of(types=types)
    found = learner(batch, learner.counts(batch))
    wanted = learner.model(
        batch.input_ids,
        None,
        batch.token_type_ids,
        lengths=batch.lengths,
        labels=batch.labels,
    ).loss
    assert wanted is not None
    torch.testing.assert_close(found["loss"], wanted, **EXACT)
    torch.testing.assert_close(found["mlm"], wanted.detach(), **EXACT)
    assert not found["mlm"].requires_grad
    assert_same_gradients(found["loss"], wanted, learner)


@pytest.mark.parametrize("class_name", STUDENTS)
@pytest.mark.parametrize("positions", ["attended", "masked"])
def test_distillation_is_the_pure_function_of_both_models_outputs(
    class_name: str, positions: Any
) -> None:
    loss = DistillationLoss(temperature=3.0, mse=0.5, positions=positions)
    learner = distiller(class_name, loss)
    batch = batch_of()
    found = learner(batch, learner.counts(batch))
    inputs = {"input_ids": batch.input_ids, "lengths": batch.lengths}
    student = learner.student(**inputs, output_hidden_states=True)
    with torch.no_grad():
        teacher = learner.teacher(**inputs, output_hidden_states=True)
    terms = distillation_terms(
        student.logits,
        teacher.logits,
        batch.labels,
        student.hidden_states[-1],
        teacher.hidden_states[-1],
        temperature=3.0,
        positions=positions,
    )
    wanted = 5 * terms.kl + 2 * terms.mlm + terms.cosine + 0.5 * terms.mse
    torch.testing.assert_close(found.pop("loss"), wanted, **EXACT)
    assert float(found.pop("masked_share")) == pytest.approx(8 / 23)
    assert found.keys() == {"kl", "mlm", "cosine", "mse"}
    for name, value in found.items():
        torch.testing.assert_close(value, getattr(terms, name).detach(), **EXACT)
    assert_same_gradients(learner(batch, learner.counts(batch))["loss"], wanted, learner)


def test_counts() -> None:
    batch = batch_of()
    for learner in (learner_of("masked_lm"), learner_of("distillation")):
        assert learner.counts(batch) == {"attended": 23, "masked": 8}
        assert learner.counts(part(batch, 0, 0)) == {"attended": 0, "masked": 0}


@pytest.mark.parametrize("kind", ["masked_lm", "distillation"])
@pytest.mark.parametrize("bounds", [(0, 2, 5), (0, 0, 5), (0, 1, 2, 3, 4, 5)])
def test_micro_batches_add_up_to_the_step(kind: str, bounds: tuple[int, ...]) -> None:
    learner, batch = learner_of(kind), batch_of()
    counts = learner.counts(batch)
    whole = learner(batch, counts)
    parts = [part(batch, a, b) for a, b in pairwise(bounds)]
    sums: dict[str, Tensor] = {}
    for found in (learner(one, counts) for one in parts):
        assert found.keys() == whole.keys()
        sums = {name: sums.get(name, 0) + value for name, value in found.items()}
    for name, value in whole.items():
        torch.testing.assert_close(sums[name], value, **EXACT)
    assert_same_gradients(sums["loss"], whole["loss"], learner)


def without_tokens(batch: TokenBatch) -> TokenBatch:
    return part(batch, 0, 0)


def without_labels(batch: TokenBatch) -> TokenBatch:
    labels = torch.full_like(batch.labels, -100)
    return TokenBatch(batch.samples, batch.input_ids, batch.lengths, labels)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("emptied", [without_tokens, without_labels])
@pytest.mark.parametrize("kind", [*STUDENTS, "masked_lm kl", "attended kl", "cosine", "wider"])
def test_every_trained_parameter_always_takes_part(kind: str, emptied: Any, frozen: bool) -> None:
    """Data-parallel training waits for a gradient of each of them."""
    losses = {
        "masked_lm kl": DistillationLoss(positions="masked"),
        "attended kl": DistillationLoss(mlm=0, cosine=0),
        "cosine": DistillationLoss(kl=0, mlm=0),
        "wider": DistillationLoss(),
    }
    learner: Learner
    if kind in STUDENTS:
        learner = MaskedLMLearner(model(kind))
    else:
        width = {"hidden_size": 24} if kind == "wider" else {}
        learner = distiller(loss=losses[kind], teacher=teacher_model(**width))
    if frozen:
        learner.get_submodule(
            "model.encoder" if kind in STUDENTS else "student.encoder"
        ).embeddings.position.weight.requires_grad_(False)
    batch = emptied(batch_of())
    found = learner(batch, {"attended": 5, "masked": 2})
    if batch.tokens == 0 or kind in STUDENTS:
        assert all(value.item() == 0 for value in found.values())
    found["loss"].backward()
    for name, parameter in learner.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
        if parameter.grad is not None:
            assert bool(parameter.grad.isfinite().all()), name


def test_the_scores_are_those_of_the_plain_models() -> None:
    learner = distiller(loss=DistillationLoss(temperature=3.0))
    batch = batch_of()
    scores = learner.eval_step(batch)
    where = batch.labels >= 0
    inputs = {"input_ids": batch.input_ids, "lengths": batch.lengths}
    with torch.no_grad():
        student, teacher = (m(**inputs).logits[where] for m in (learner.student, learner.teacher))
    labels = batch.labels[where]
    kl = F.kl_div((student / 3).log_softmax(-1), (teacher / 3).softmax(-1), reduction="sum")
    assert scores.keys() == {"masked_loss", "masked_accuracy", "masked_kl"}
    assert scores["masked_loss"] == (
        pytest.approx(F.cross_entropy(student, labels, reduction="sum").item(), abs=1e-9),
        8,
    )
    assert scores["masked_accuracy"] == ((student.argmax(-1) == labels).sum().item(), 8)
    assert scores["masked_kl"] == (pytest.approx(9 * kl.item(), abs=1e-9), 8)
    alone = MaskedLMLearner(learner.student).eval_step(batch)
    assert alone == {name: scores[name] for name in ("masked_loss", "masked_accuracy")}


def test_scores_without_a_comparison_of_logits_need_no_teacher(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    learner = distiller(loss=DistillationLoss(kl=0, cosine=0))
    batch = batch_of()
    monkeypatch.setattr(learner.teacher, "forward", None)
    monkeypatch.setattr(learner.teacher.base, "forward", None)
    assert learner.eval_step(batch).keys() == {"masked_loss", "masked_accuracy"}
    assert learner(batch, learner.counts(batch)).keys() == {"loss", "mlm", "masked_share"}


def test_the_teacher_is_no_part_of_the_learner() -> None:
    teacher = teacher_model()
    learner = distiller(teacher=teacher)
    assert learner.teacher is teacher
    assert all(name.startswith("student.") for name in learner.state_dict())
    assert not {id(p) for p in teacher.parameters()} & {id(p) for p in learner.parameters()}
    learner.train()
    assert not teacher.training
    batch = batch_of()
    learner(batch, learner.counts(batch))["loss"].backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_the_teacher_moves_with_the_learner_but_keeps_its_dtype() -> None:
    teacher = teacher_model(dtype=torch.bfloat16)
    student = model("DistilBertForMaskedLM").float()
    learner = DistillationLearner(student, teacher, DistillationLoss())
    batch = batch_of()
    assert learner(batch, learner.counts(batch))["loss"].dtype == torch.float32
    learner.to(torch.float64)
    assert (student.dtype, teacher.dtype) == (torch.float64, torch.bfloat16)
    learner.to("meta")
    assert (student.device.type, teacher.device.type) == ("meta", "meta")


def test_the_teachers_dropout_is_off_and_the_students_on() -> None:
    learner = distiller(hidden_dropout_prob=0.5)
    learner.train()
    batch = batch_of()

    def kl(seed: int) -> float:
        torch.manual_seed(seed)
        return learner(batch, learner.counts(batch))["kl"].item()

    assert kl(1) == kl(1) != kl(2)
    learner.eval()
    assert kl(1) == kl(2)


def test_a_teacher_of_another_width() -> None:
    learner = distiller(teacher=teacher_model(hidden_size=24))
    assert learner.loss.projection is not None
    assert learner.loss.projection.weight.shape == (24, 16)
    assert "loss.projection.weight" in learner.state_dict()
    batch = batch_of()
    learner(batch, learner.counts(batch))["loss"].backward()
    gradient = learner.loss.projection.weight.grad
    assert gradient is not None
    assert bool((gradient != 0).any())


def test_a_copy_of_a_learner_learns_alike() -> None:
    learner, batch = distiller(), batch_of()
    other = copy.deepcopy(learner)
    one, two = (each(batch, each.counts(batch))["loss"] for each in (learner, other))
    assert torch.equal(one, two)


@pytest.mark.parametrize("class_name", ["BertForPreTraining", "AlbertForMaskedLM"])
def test_other_teachers(class_name: str) -> None:
    learner, batch = distiller(teacher=teacher_model(class_name)), batch_of()
    assert learner(batch, learner.counts(batch))["kl"].item() > 0


def test_a_teacher_without_head() -> None:
    teacher = teacher_model("BertModel")
    learner, batch = distiller(loss=DistillationLoss(kl=0), teacher=teacher), batch_of()
    assert learner(batch, learner.counts(batch))["cosine"].item() > 0
    with pytest.raises(InputError, match="BertModel, which has no masked-LM head, but kl or"):
        distiller(teacher=teacher)


def test_a_student_of_its_teacher_starts_at_zero_divergence() -> None:
    teacher = teacher_model()
    student = minilm.init_student(teacher, [0, 1, 2])
    assert isinstance(student, ForMaskedLM)
    learner, batch = DistillationLearner(student, teacher, DistillationLoss(mse=1.0)), batch_of()
    terms: Mapping[str, Tensor] = learner(batch, learner.counts(batch))
    for name in ("kl", "cosine", "mse"):
        assert terms[name].item() == pytest.approx(0.0, abs=1e-10), name
    assert terms["mlm"].item() > 1


@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        ("DistilBertModel", "BertForMaskedLM", "is a DistilBertModel"),
        ("BertForTokenClassification", "BertForMaskedLM", "is a BertForTokenClassification"),
    ],
)
def test_models_that_cannot_be_trained_so(student: str, teacher: str, message: str) -> None:
    wrong: Any = tiny(student)
    with pytest.raises(InputError, match=message):
        DistillationLearner(wrong, tiny(teacher), DistillationLoss())
    with pytest.raises(InputError, match=message.replace("student is", "model is")):
        MaskedLMLearner(wrong)


def test_vocabularies_must_agree() -> None:
    with pytest.raises(InputError, match="vocabularies of 61 and 62 entries"):
        distiller(teacher=teacher_model(vocab_size=62))
    student = model("BertForMaskedLM")
    with pytest.raises(InputError, match="the same model"):
        DistillationLearner(student, student, DistillationLoss())
