"""Distillation with the terms beyond the triple loss: what the learner hands to each of them."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from minilm.data.batches import TokenBatch
from minilm.errors import InputError
from minilm.learners.distillation import DistillationLearner
from minilm.losses.distillation import TERMS, DistillationLoss
from minilm.losses.elementary import cross_entropy
from minilm.losses.layer_states import (
    hidden_cosine,
    hidden_mse,
    layer_pairs,
    pooled_cosine,
    pooled_mse,
)
from minilm.losses.relations import relation_divergence
from test_learners import EXACT, assert_same_gradients, batch_of, part, teacher_model
from tiny import tiny

NOTHING = {"kl": 0.0, "mlm": 0.0, "cosine": 0.0}
LAYERS = ("hidden_cosine", "hidden_mse", "attention", "relations")
STATES = (*LAYERS, "pooled", "pooled_mse")
STUDENTS = ["BertForMaskedLM", "DistilBertForMaskedLM", "AlbertForMaskedLM", "AlbertModel"]
DEEP = {"num_hidden_layers": 6}


def only(**weights: Any) -> DistillationLoss:
    return DistillationLoss(**{**NOTHING, **weights})


def student_of(class_name: str, **changes: Any) -> Any:
    """With parameters of its own."""
    found = tiny(class_name, **changes)
    torch.manual_seed(8)
    for parameter in found.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return found


def learner_of(
    class_name: str, loss: DistillationLoss, teacher: Any = None, **changes: Any
) -> DistillationLearner:
    student = student_of(class_name, **changes)
    return DistillationLearner(student, teacher or teacher_model(**DEEP), loss)


def layers_of(model: Any, batch: TokenBatch) -> tuple[list[Tensor], list[Any]]:
    """Hidden states in the caller's order, and the layers in the order of their applications."""
    found = model.base(batch.input_ids, lengths=batch.lengths, output_hidden_states=True)
    return list(found.hidden_states), list(model.base.virtual_layers())


def plain_terms(
    student: Any, teacher: Any, batch: TokenBatch, layer_map: Any = "uniform"
) -> dict[str, Tensor]:
    """Every term, from what the models return and from the linear layers of their attention."""
    ours, our_layers = layers_of(student, batch)
    with torch.no_grad():
        theirs, their_layers = layers_of(teacher, batch)
    pairs = layer_pairs(layer_map, len(our_layers), len(their_layers))
    lengths = batch.lengths.tolist()
    heads = teacher.config.num_attention_heads

    def relation(kind: str, i: int, j: int) -> Tensor:
        names = {"q": "query", "k": "key", "v": "value"}
        sides = [
            [getattr(layers[n].attention, names[letter])(states[n]) for letter in kind]
            for layers, states, n in ((our_layers, ours, i), (their_layers, theirs, j))
        ]
        return relation_divergence(*map(tuple, sides), lengths, heads).mean()  # type: ignore[arg-type]

    compared = [ours[i + 1] for i, _ in pairs], [theirs[j + 1] for _, j in pairs]
    return {
        "hidden_cosine": hidden_cosine(*compared).mean(),
        "hidden_mse": hidden_mse(*compared).mean(),
        "attention": torch.stack([relation("qk", i, j) for i, j in pairs]).mean(),
        "relations": torch.stack([relation(kind, *pairs[-1]) for kind in ("qq", "kk", "vv")]).sum(),
        "relations v1": relation("qk", *pairs[-1]) + relation("vv", *pairs[-1]),
        "pooled": pooled_cosine(ours[-1], theirs[-1], lengths).mean(),
        "pooled_mse": pooled_mse(ours[-1], theirs[-1], lengths).mean(),
    }


@pytest.mark.parametrize("layer_map", ["uniform", "last", [5, 0, 3]])
@pytest.mark.parametrize("class_name", STUDENTS)
def test_the_terms_are_the_pure_functions_of_both_models_states(
    class_name: str, layer_map: Any
) -> None:
    weights = {name: 0.5 + i for i, name in enumerate(STATES)}
    learner, batch = learner_of(class_name, only(**weights, layer_map=layer_map)), batch_of()
    found = learner(batch, learner.counts(batch))
    plain = plain_terms(learner.student, learner.teacher, batch, layer_map)
    wanted = torch.stack([weight * plain[name] for name, weight in weights.items()]).sum()
    assert found.keys() == {"loss", "masked_share", *STATES}
    for name in STATES:
        torch.testing.assert_close(found[name], plain[name].detach(), **EXACT)
        assert not found[name].requires_grad
    torch.testing.assert_close(found["loss"], wanted, **EXACT)
    assert_same_gradients(found["loss"], wanted, learner)


def test_relations_of_the_first_version() -> None:
    loss, batch = only(relations=1.0, relation_kinds="qk_vv"), batch_of()
    learner = learner_of("AlbertForMaskedLM", loss)
    plain = plain_terms(learner.student, learner.teacher, batch)
    found = learner(batch, learner.counts(batch))["relations"]
    torch.testing.assert_close(found, plain["relations v1"].detach(), **EXACT)
    assert abs(float(found) - float(plain["relations"].detach())) > 1e-3


def test_all_terms_together_are_added_to_the_triple_loss() -> None:
    batch, teacher = batch_of(), teacher_model(**DEEP)
    weights = dict.fromkeys(STATES, 0.25)
    triple = learner_of("BertForMaskedLM", DistillationLoss(), teacher)
    learner = learner_of("BertForMaskedLM", DistillationLoss(**weights), teacher)
    one, all_of_them = (each(batch, each.counts(batch)) for each in (triple, learner))
    extra = sum(float(value) for name, value in all_of_them.items() if name in STATES) / 4
    assert all_of_them["loss"].item() == pytest.approx(one["loss"].item() + extra, abs=1e-10)
    for name in ("kl", "mlm", "cosine"):
        assert torch.equal(one[name], all_of_them[name])


@pytest.mark.parametrize("term", STATES)
def test_a_student_that_equals_its_teacher_has_nothing_to_learn(term: str) -> None:
    teacher = teacher_model("AlbertModel")
    student = tiny("AlbertModel")
    student.load_state_dict(teacher.state_dict())
    learner, batch = DistillationLearner(student, teacher, only(**{term: 1.0})), batch_of()  # type: ignore[arg-type]
    terms = learner(batch, learner.counts(batch))
    assert terms[term].item() == pytest.approx(0.0, abs=1e-12)
    with torch.no_grad():
        next(iter(student.base.virtual_layers())).attention.query.weight.mul_(1.5)  # type: ignore[union-attr]
    assert learner(batch, learner.counts(batch))[term].item() > 1e-9


@pytest.mark.parametrize("term", STATES)
@pytest.mark.parametrize("bounds", [(0, 2, 5), (0, 0, 5), (0, 1, 2, 3, 4, 5)])
def test_micro_batches_add_up_to_the_step(term: str, bounds: tuple[int, ...]) -> None:
    learner, batch = learner_of("AlbertForMaskedLM", only(**{term: 2.0})), batch_of()
    counts = learner.counts(batch)
    whole = learner(batch, counts)
    parts = [learner(part(batch, a, b), counts) for a, b in pairwise(bounds)]
    for name, value in whole.items():
        torch.testing.assert_close(sum(found[name] for found in parts), value, **EXACT)
    assert_same_gradients(sum(found["loss"] for found in parts), whole["loss"], learner)  # type: ignore[arg-type]


@pytest.mark.parametrize("empty", [False, True])
@pytest.mark.parametrize("term", STATES)
@pytest.mark.parametrize("class_name", ["BertModel", "AlbertForMaskedLM"])
def test_every_trained_parameter_always_takes_part(class_name: str, term: str, empty: bool) -> None:
    """Data-parallel training waits for a gradient of each: head and last layer, too."""
    teacher = teacher_model(hidden_size=24)
    learner, batch = learner_of(class_name, only(**{term: 1.0}), teacher), batch_of()
    counts = learner.counts(batch)
    learner(part(batch, 0, 0) if empty else batch, counts)["loss"].backward()
    trained = {name: p.grad for name, p in learner.named_parameters() if p.requires_grad}
    assert [name for name, gradient in trained.items() if gradient is None] == []
    frozen = {name for name, _ in learner.named_parameters()} - trained.keys()
    assert frozen == {n for n, _ in learner.named_parameters() if ".pooler." in n}
    projected = "loss.projection.weight" in dict(learner.named_parameters())
    assert projected == (term not in ("attention", "relations"))


def test_without_a_new_term_nothing_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    learner, batch = learner_of("AlbertForMaskedLM", DistillationLoss()), batch_of()
    seen: list[Any] = []
    for each in (learner.student, learner.teacher):
        forward = each.base.forward
        monkeypatch.setattr(
            each.base,
            "forward",
            lambda *given, of=forward, **named: seen.append(named["reads"]) or of(*given, **named),
        )
    learner(batch, learner.counts(batch))
    assert seen == ["all", "all"]
    assert learner.counts(batch).keys() == {"attended", "masked"}


def test_only_what_is_read_is_computed() -> None:
    reads = {
        "hidden_mse": {0: ("output",), 1: ("output",), 2: ("output",)},
        "attention": {0: ("query", "key"), 1: ("query", "key"), 2: ("query", "key")},
        "relations": {2: ("query", "key", "value")},
    }
    for term, wanted in reads.items():
        loss = learner_of("AlbertForMaskedLM", only(**{term: 1.0})).loss
        assert loss.layers.student_reads == wanted
        assert set(loss.layers.teacher_reads) == {2 * layer + 1 for layer in wanted}
    last = learner_of("AlbertForMaskedLM", only(hidden_mse=1.0, layer_map="last")).loss
    assert (last.layers.student_reads, last.layers.teacher_reads) == (
        {2: ("output",)},
        {5: ("output",)},
    )


def test_checkpointing_and_dropout_do_not_hinder() -> None:
    loss = DistillationLoss(**dict.fromkeys(STATES, 0.5))
    losses = {}
    for checkpointing in (False, True):
        learner, batch = learner_of("AlbertForMaskedLM", loss), batch_of()
        learner.train()
        learner.student.base.gradient_checkpointing = checkpointing
        found = learner(batch, learner.counts(batch))["loss"]
        found.backward()
        gradients = [p.grad for p in learner.parameters() if p.requires_grad]
        losses[checkpointing] = found, gradients
    for one, other in zip(*(found[1] for found in losses.values()), strict=True):
        torch.testing.assert_close(one, other, **EXACT)


# ------------------------------------------------------------------ settings


def test_the_loss_says_what_it_was_made_with() -> None:
    loss = DistillationLoss(hidden_cosine=3.0, layer_map=[1, 3, 5], relation_heads=2)
    found = loss.to_dict()
    assert {name: found.pop(name) for name in ("hidden_cosine", "layer_map", "relation_heads")} == {
        "hidden_cosine": 3.0,
        "layer_map": [1, 3, 5],
        "relation_heads": 2,
    }
    assert found == DistillationLoss().to_dict()
    assert DistillationLoss(**loss.to_dict()).to_dict() == loss.to_dict()
    assert set(DistillationLoss(**dict.fromkeys(TERMS, 1.0)).terms) == set(TERMS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"hidden_cosine": -1.0}, "hidden_cosine is -1.0: a weight"),
        ({"sentence_order": float("nan")}, "sentence_order is nan"),
        ({"layer_map": "all"}, "layer_map is 'all'"),
        ({"layer_map": [1, -2]}, "layer_map is [1, -2]"),
        ({"relation_kinds": "qv"}, "relation_kinds is 'qv': expected one of qq_kk_vv, qk_vv"),
        ({"relation_heads": 0}, "relation_heads is 0: expected a number of at least 1"),
    ],
)
def test_wrong_settings_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        DistillationLoss(**arguments)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("loss", "student", "message"),
    [
        (only(attention=1.0), {"num_attention_heads": 2}, "the student has 2 attention heads and"),
        (only(relations=1.0, relation_heads=3), {}, "relation_heads is 3, which does not divide"),
        (only(hidden_mse=1.0, layer_map=[0]), {}, "layer_map has 1 number, but the student"),
        (only(hidden_mse=1.0, layer_map=[0, 1, 6]), {}, "layer_map names layer 6, but the teacher"),
        (only(sentence_order=1.0), {}, "no head for pairs of segments, but sentence_order has"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    loss: DistillationLoss, student: dict[str, int], message: str
) -> None:
    with pytest.raises(InputError) as caught:
        learner_of("AlbertForMaskedLM", loss, **student)
    assert message in str(caught.value)


def test_relations_need_no_equal_heads() -> None:
    loss, batch = only(relations=1.0, relation_heads=8), batch_of()
    learner = learner_of("AlbertForMaskedLM", loss, num_attention_heads=2)
    assert learner(batch, learner.counts(batch))["relations"].item() > 0


# ------------------------------------------------------------------ heads and vocabularies


def test_a_student_without_head_is_judged_by_the_terms() -> None:
    loss = only(hidden_cosine=2.0, pooled=1.0)
    learner, batch = learner_of("AlbertModel", loss, teacher_model("BertModel", **DEEP)), batch_of()
    learner.eval()
    terms, scores = learner(batch, learner.counts(batch)), learner.eval_step(batch)
    assert scores.keys() == set(learner.metric_names) == {"hidden_cosine", "pooled"}
    assert scores["hidden_cosine"] == (pytest.approx(terms["hidden_cosine"].item() * 23), 23)
    assert scores["pooled"] == (pytest.approx(terms["pooled"].item() * 5), 5)
    with pytest.raises(InputError, match="no masked-LM head, but kl, mlm compare predicted words"):
        learner_of("AlbertModel", DistillationLoss())


def test_the_beginning_of_a_larger_vocabulary() -> None:
    """Logits are compared on the entries that both have, teacher's softmax included."""
    teacher, batch = teacher_model(vocab_size=70), batch_of()
    student = student_of("DistilBertForMaskedLM")
    loss = DistillationLoss(mse=0.5)
    with pytest.raises(InputError, match="shared_entries='first'"):
        DistillationLearner(student, teacher, loss)
    learner = DistillationLearner(student, teacher, loss, shared_entries="first")
    inputs = {"input_ids": batch.input_ids, "lengths": batch.lengths}
    ours, theirs = student(**inputs).logits, teacher(**inputs).logits[:, :61].detach()
    kl = torch.nn.functional.kl_div(
        (ours / 2).log_softmax(-1), (theirs / 2).softmax(-1), reduction="sum"
    )
    found = learner(batch, learner.counts(batch))
    assert found["kl"].item() == pytest.approx(4 * kl.item() / 23, abs=1e-9)
    with pytest.raises(InputError, match="vocabularies of 61 and 50"):
        DistillationLearner(student, teacher_model(vocab_size=50), loss, shared_entries="first")


def test_entries_that_a_mapping_pairs() -> None:
    """A teacher with its vocabulary in another order is the same teacher."""
    teacher, batch = teacher_model(), batch_of()
    order = torch.randperm(61, generator=torch.Generator().manual_seed(2))
    shuffled = teacher_model()
    with torch.no_grad():
        shuffled.get_input_embeddings().weight[order] = teacher.get_input_embeddings().weight
        shuffled.masked_lm_head.bias[order] = teacher.masked_lm_head.bias  # type: ignore[operator,union-attr,index]
    loss = DistillationLoss(mse=0.5, hidden_cosine=1.0)
    plain = DistillationLearner(student_of("AlbertForMaskedLM"), teacher, loss)
    mapped = DistillationLearner(
        student_of("AlbertForMaskedLM"), shuffled, loss, shared_entries=order
    )
    unmapped = DistillationLearner(student_of("AlbertForMaskedLM"), shuffled, loss)
    one, two, wrong = (x(batch, x.counts(batch)) for x in (plain, mapped, unmapped))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, **EXACT)
    assert abs(float(wrong["kl"]) - float(one["kl"])) > 1e-3
    for entries, message in (
        (order[:5], r"expected \(61,\) int64"),
        (order + 1, "numbers from 1 to 61: the teacher has entries 0 to 60"),
    ):
        with pytest.raises(InputError, match=message):
            DistillationLearner(plain.student, shuffled, loss, shared_entries=entries)


# ------------------------------------------------------------------ sentence order


def pairs_of(batch: TokenBatch) -> TokenBatch:
    return TokenBatch(
        batch.samples,
        batch.input_ids,
        batch.lengths,
        batch.labels,
        torch.arange(batch.tokens) % 2,
        torch.arange(len(batch.samples)) % 2,
        "sentence_order",
    )


def test_sentence_order_is_learned_beside_the_teacher() -> None:
    batch = pairs_of(batch_of())
    learner = learner_of("AlbertForPreTraining", DistillationLoss(sentence_order=3.0))
    learner.eval()
    found = learner(batch, learner.counts(batch))
    assert learner.counts(batch)["pairs"] == 5
    assert found.keys() == {"loss", "kl", "mlm", "cosine", "sentence_order", "masked_share"}
    student: Any = learner.student
    out = student(batch.input_ids, token_type_ids=batch.token_type_ids, lengths=batch.lengths)
    wanted = cross_entropy(out.sop_logits, batch.sentence_labels).mean()  # type: ignore[arg-type]
    torch.testing.assert_close(found["sentence_order"], wanted.detach(), **EXACT)
    parts = 5 * found["kl"] + 2 * found["mlm"] + found["cosine"] + 3 * found["sentence_order"]
    torch.testing.assert_close(found["loss"].detach(), parts, **EXACT)
    found["loss"].backward()
    assert all(p.grad is not None for p in learner.parameters())
    head = student.sentence_order_head.weight.grad
    assert bool((head != 0).any())
    scores = learner.eval_step(batch)
    right = out.sop_logits.argmax(-1) == batch.sentence_labels
    assert scores == {"sentence_order_accuracy": (float(right.sum()), 5)}
    assert learner.eval_step(batch_of()).keys() == {"masked_loss", "masked_accuracy", "masked_kl"}
    with pytest.raises(InputError, match="sequences of one segment"):
        learner(batch_of(), learner.counts(batch))


def test_the_teacher_sees_no_token_types() -> None:
    batch = pairs_of(batch_of())
    learner = learner_of("AlbertForPreTraining", only(hidden_mse=1.0, sentence_order=1.0))
    with torch.no_grad():
        plain, found = learner(batch, learner.counts(batch)), []
        for types in learner.teacher.base.embeddings, learner.student.base.embeddings:  # type: ignore[union-attr]
            types.token_type.weight[1] *= -1.0
            found.append(learner(batch, learner.counts(batch))["hidden_mse"])
    assert torch.equal(found[0], plain["hidden_mse"])
    assert abs(float(found[1] - found[0])) > 1e-3


def test_a_head_for_pairs_stays_as_it_is_without_its_term() -> None:
    learner, batch = learner_of("AlbertForPreTraining", DistillationLoss()), batch_of()
    learner(batch, learner.counts(batch))["loss"].backward()
    frozen = [n for n, p in learner.student.named_parameters() if not p.requires_grad]
    assert {name.split(".")[-3 if "pooler" in name else -2] for name in frozen} == {
        "sentence_order_head",
        "pooler",
    }
    trained = {n: p.grad for n, p in learner.student.named_parameters() if p.requires_grad}
    assert all(gradient is not None for gradient in trained.values())
    assert bool((trained["masked_lm_head.dense.weight"] != 0).any())  # type: ignore[union-attr]
    asked = learner_of("AlbertForPreTraining", DistillationLoss(sentence_order=1.0))
    assert all(parameter.requires_grad for parameter in asked.parameters())


def test_other_heads_are_refused() -> None:
    with pytest.raises(InputError, match="student is a BertForTokenClassification: expected"):
        learner_of("BertForTokenClassification", only(hidden_mse=1.0))
