"""The distillation loss: chunked, pure and written out with torch's own losses, all equal."""

import math
from collections.abc import Mapping
from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from torch import Tensor, nn

from minilm.blocks.heads import MaskedLMHead
from minilm.errors import InputError
from minilm.losses.distillation import (
    DistillationLoss,
    DistillationTerms,
    States,
    distillation_terms,
)
from minilm.losses.vocabulary import LogitInputs, fused_vocab_losses, masked_scores

Positions = Literal["attended", "masked"]
V, H, E = 19, 6, 5
LENGTHS = (4, 1, 7, 2)
TOKENS = sum(LENGTHS)
EXACT: dict[str, Any] = {"rtol": 0, "atol": 1e-10}


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def some_labels(count: int = TOKENS, every: int = 3) -> Tensor:
    labels = torch.randint(0, V, (count,), generator=torch.Generator().manual_seed(1))
    labels[torch.arange(count) % every != 0] = -100
    return labels


def head_states(width: int, seed: int, tokens: int = TOKENS) -> tuple[States, list[Tensor]]:
    """States with a masked-LM head, and everything in them that can have a gradient."""
    head = MaskedLMHead(
        hidden_size=width, embedding_size=E, vocab_size=V, activation="gelu", norm_eps=1e-12
    ).double()
    for number, parameter in enumerate(head.parameters()):
        parameter.data = draw(*parameter.shape, seed=seed + number)
    hidden = draw(TOKENS, width, seed=seed + 10)[:tokens].requires_grad_()
    matrix = draw(V, E, seed=seed + 11).requires_grad_()
    return States(hidden, head, matrix, head.bias), [hidden, matrix, *head.parameters()]


def logits_of(states: States) -> Tensor:
    inputs = states.logit_inputs(None)
    return F.linear(inputs.rows, inputs.matrix, inputs.bias)


def reference(
    student: States, teacher: States, labels: Tensor, temperature: float, positions: str
) -> dict[str, Tensor]:
    """The formulas of the released code, with torch's losses."""
    s, t = logits_of(student), logits_of(teacher)
    chosen = torch.ones_like(labels, dtype=torch.bool) if positions == "attended" else labels >= 0
    kl = nn.KLDivLoss(reduction="batchmean")(
        F.log_softmax(s[chosen] / temperature, dim=-1), F.softmax(t[chosen] / temperature, dim=-1)
    )
    cosine = nn.CosineEmbeddingLoss()(
        student.hidden, teacher.hidden, torch.ones(labels.shape[0], dtype=torch.float64)
    )
    return {
        "kl": kl * temperature**2,
        "mlm": nn.CrossEntropyLoss()(s, labels),
        "cosine": cosine,
        "mse": nn.MSELoss(reduction="sum")(s[chosen], t[chosen]) / int(chosen.sum()),
    }


def assert_same_gradients(one: Tensor, other: Tensor, inputs: list[Tensor]) -> None:
    options: dict[str, Any] = {"retain_graph": True, "materialize_grads": True}
    ours = torch.autograd.grad(one, inputs, **options)
    theirs = torch.autograd.grad(other, inputs, **options)
    for mine, wanted in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, wanted, **EXACT)


# ------------------------------------------------------------------ the chunked vocabulary losses


@pytest.fixture(scope="module")
def logit_inputs() -> tuple[LogitInputs, LogitInputs, Tensor]:
    """A student that learns, a teacher of another width, labels for some rows."""
    student = LogitInputs(*(draw(*shape).requires_grad_() for shape in ((13, E), (V, E), (V,))))
    teacher = LogitInputs(*(draw(*shape, seed=7) for shape in ((13, E + 2), (V, E + 2), (V,))))
    return student, teacher, some_labels(13)


def plain_sums(
    student: LogitInputs, teacher: LogitInputs, labels: Tensor, temperature: float
) -> dict[str, Tensor]:
    s = F.linear(student.rows, student.matrix, student.bias)
    t = F.linear(teacher.rows, teacher.matrix, teacher.bias)
    log_p, q = (s / temperature).log_softmax(-1), (t / temperature).softmax(-1)
    return {
        "kl": F.kl_div(log_p, q, reduction="sum") * temperature**2,
        "mlm": F.cross_entropy(s, labels, reduction="sum"),
        "mse": (s - t).square().sum(),
    }


@pytest.mark.parametrize("rows_at_once", [1, 2, 5, 12, 13, 1000])
@pytest.mark.parametrize(
    "factors",
    [
        {"kl": 0.3, "mlm": 0.7, "mse": 0.2},
        {"kl": 0.3},
        {"mlm": 0.7},
        {"mse": 0.2},
        {"kl": 0.3, "mlm": 0.7},
        {"mlm": 0.7, "mse": 0.2},
    ],
)
def test_chunked_sums_equal_the_plain_computation(
    logit_inputs: tuple[LogitInputs, LogitInputs, Tensor],
    rows_at_once: int,
    factors: dict[str, float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    student, teacher, labels = logit_inputs
    monkeypatch.setattr("minilm.losses.vocabulary.BLOCK_BYTES", 2 * V * 8)
    sums = fused_vocab_losses(
        student, teacher, labels, **factors, temperature=1.7, chunk_bytes=rows_at_once * V * 8
    )
    plain = plain_sums(student, teacher, labels, 1.7)
    total = torch.stack([plain[name] * factor for name, factor in factors.items()]).sum()
    torch.testing.assert_close(sums.total, total, **EXACT)
    for name, value in plain.items():
        wanted = value.detach() if name in factors else torch.zeros_like(value)
        torch.testing.assert_close(getattr(sums, name), wanted, **EXACT)
        assert not getattr(sums, name).requires_grad
    inputs = [student.rows, student.matrix, student.bias]
    assert_same_gradients(sums.total * 3.0, total * 3.0, inputs)
    assert_same_gradients(sums.total, total, inputs)


def test_gradcheck() -> None:
    teacher = LogitInputs(draw(5, 2), draw(7, 2, seed=1), draw(7, seed=2))
    labels = torch.tensor([1, -100, 6, -100, 0])

    def total(rows: Tensor, matrix: Tensor, bias: Tensor) -> Tensor:
        factors = {"kl": 0.5, "mlm": 0.4, "mse": 0.1, "temperature": 2.0}
        student = LogitInputs(rows, matrix, bias)
        return fused_vocab_losses(student, teacher, labels, **factors, chunk_bytes=2 * 7 * 8).total

    inputs = [draw(*shape, seed=9).requires_grad_() for shape in ((5, 3), (7, 3), (7,))]
    assert torch.autograd.gradcheck(total, inputs)


@pytest.mark.parametrize("frozen", ["rows", "matrix", "bias"])
def test_what_needs_no_gradient_gets_none(
    logit_inputs: tuple[LogitInputs, LogitInputs, Tensor], frozen: str
) -> None:
    student, teacher, labels = logit_inputs
    parts = {name: getattr(student, name) for name in ("rows", "matrix", "bias")}
    parts[frozen] = parts[frozen].detach()
    partly = LogitInputs(**parts)
    total = fused_vocab_losses(partly, teacher, labels, kl=1.0, mlm=1.0).total
    plain = plain_sums(student, teacher, labels, 1.0)
    others = [value for name, value in parts.items() if name != frozen]
    assert_same_gradients(total, plain["kl"] + plain["mlm"], others)
    with torch.no_grad():
        silent = fused_vocab_losses(student, teacher, labels, kl=1.0, mlm=1.0).total
    assert not silent.requires_grad
    torch.testing.assert_close(silent, total.detach(), rtol=0, atol=0)


@pytest.mark.parametrize("unlabelled", ["no rows", "no labels"])
def test_nothing_to_look_at_is_zero_with_zero_gradients(unlabelled: str) -> None:
    rows = 0 if unlabelled == "no rows" else 4
    student = LogitInputs(*(draw(*shape).requires_grad_() for shape in ((rows, E), (V, E), (V,))))
    sums = fused_vocab_losses(student, labels=torch.full((rows,), -100), mlm=2.0)
    assert sums.total.item() == 0
    for gradient in torch.autograd.grad(sums.total, [student.rows, student.matrix, student.bias]):
        assert bool((gradient == 0).all())


def test_equal_logits_have_no_divergence() -> None:
    student = LogitInputs(
        draw(8, E).float().requires_grad_(), draw(V, E).float() * 9, draw(V).float() * 9
    )
    sums = fused_vocab_losses(student, student, kl=1.0, mse=1.0, temperature=3.0)
    assert (sums.kl.item(), sums.mse.item()) == (0.0, 0.0)
    assert bool((torch.autograd.grad(sums.total, student.rows)[0] == 0).all())


@given(seed=st.integers(0, 2**20), scale=st.floats(0.01, 30.0), temperature=st.floats(0.3, 20.0))
@settings(max_examples=40, deadline=None)
def test_the_divergence_is_never_negative(seed: int, scale: float, temperature: float) -> None:
    one, other = (
        LogitInputs(
            draw(3, E, seed=seed + i) * scale, draw(V, E, seed=seed + 5), draw(V, seed=seed)
        )
        for i in range(2)
    )
    assert fused_vocab_losses(one, other, kl=1.0, temperature=temperature).kl.item() >= -1e-9


def test_huge_logits_stay_finite() -> None:
    student = LogitInputs(draw(4, E).float() * 1e3, draw(V, E).float() * 10, draw(V).float())
    rows = student.rows.requires_grad_()
    teacher = LogitInputs(-student.rows.detach(), student.matrix, student.bias)
    labels = torch.zeros(4, dtype=torch.int64)
    sums = fused_vocab_losses(student, teacher, labels, kl=1.0, mlm=1.0)
    assert math.isfinite(sums.total.item())
    assert bool(torch.autograd.grad(sums.total, rows)[0].isfinite().all())


def test_products_follow_autocast_and_softmaxes_do_not() -> None:
    student = LogitInputs(*(draw(*s).float().requires_grad_() for s in ((9, 16), (V, 16), (V,))))
    teacher = LogitInputs(*(draw(*s, seed=4).float() for s in ((9, 16), (V, 16), (V,))))
    inputs = [student.rows, student.matrix, student.bias]
    exact = fused_vocab_losses(student, teacher, kl=1.0, temperature=2.0)
    with torch.autocast("cpu", torch.bfloat16):
        low = fused_vocab_losses(student, teacher, kl=1.0, temperature=2.0)
    assert low.total.dtype == torch.float32
    assert low.total.item() != exact.total.item()
    torch.testing.assert_close(low.total, exact.total, rtol=0.05, atol=0.05)
    ours, wanted = (torch.autograd.grad(sums.total, inputs) for sums in (low, exact))
    for one, other in zip(ours, wanted, strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, other, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("student_dtype", [torch.float32, torch.bfloat16])
def test_both_sides_have_a_precision_of_their_own(student_dtype: torch.dtype) -> None:
    """The chunks are those of the side that needs more memory."""
    other = torch.float32 if student_dtype == torch.bfloat16 else torch.bfloat16
    shapes = ((9, E), (V, E), (V,))
    student = LogitInputs(*(draw(*s).bfloat16().to(student_dtype).requires_grad_() for s in shapes))
    teacher = LogitInputs(*(draw(*s, seed=4).bfloat16().to(other) for s in shapes))
    found = fused_vocab_losses(student, teacher, kl=1.0, chunk_bytes=4 * V * 4)
    exact = [
        LogitInputs(*(x.double() for x in (r.rows, r.matrix, r.bias))) for r in (student, teacher)
    ]
    wanted = fused_vocab_losses(*exact, kl=1.0)
    torch.testing.assert_close(found.kl, wanted.kl.float(), rtol=0.03, atol=0.03)
    found.total.backward()
    assert student.matrix.grad is not None
    assert student.matrix.grad.dtype == student_dtype


def test_logits_never_exist_for_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """No tensor of more than a chunk of logits is made, forward or backward."""
    rows, vocabulary = 64, 400
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            if isinstance(out, Tensor):
                largest = max(largest, out.numel())
            return out

    shapes = ((rows, 4), (vocabulary, 4), (vocabulary,))
    student = LogitInputs(*(draw(*shape).requires_grad_() for shape in shapes))
    teacher = LogitInputs(*(draw(*shape, seed=3) for shape in shapes))
    labels = torch.arange(rows)
    with Watch():
        sums = fused_vocab_losses(
            student, teacher, labels, kl=1.0, mlm=1.0, chunk_bytes=8 * vocabulary * 8
        )
        sums.total.backward()
    assert largest == 8 * vocabulary < rows * vocabulary


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"teacher": None}, "needs a teacher: none was given"),
        ({"kl": 0.0, "mlm": 0.0}, "kl, mlm and mse are all 0"),
        ({"labels": None}, r"labels: expected (4,) int64, got None"),
        ({"labels": torch.zeros(3, dtype=torch.int64)}, r"expected (4,) int64, got (3,)"),
        ({"labels": torch.zeros(4)}, "torch.float32"),
        ({"labels": torch.full((4,), V)}, f"labels contains {V}: expected 0 to {V - 1}"),
        ({"labels": torch.full((4,), -1)}, "labels contains -1"),
        ({"teacher": LogitInputs(draw(4, E), draw(V + 1, E), draw(V + 1))}, f"teacher's {V + 1}"),
        ({"teacher": LogitInputs(draw(5, E), draw(V, E), draw(V))}, "4 rows, the teacher 5"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    fitting = LogitInputs(draw(4, E), draw(V, E), draw(V))
    arguments = {"teacher": fitting, "labels": some_labels(4), "kl": 1.0, "mlm": 1.0, **change}
    with pytest.raises(InputError) as caught:
        fused_vocab_losses(fitting, **arguments)
    assert message in str(caught.value)


@pytest.mark.parametrize("rows_at_once", [1, 3, 100])
def test_scores(rows_at_once: int) -> None:
    inputs = LogitInputs(draw(10, E), draw(V, E, seed=1), draw(V, seed=2))
    logits = F.linear(inputs.rows, inputs.matrix, inputs.bias)
    labels = logits.argmax(-1)
    labels[:4] = (labels[:4] + 1) % V
    loss, correct = masked_scores(inputs, labels, chunk_bytes=rows_at_once * V * 8)
    assert correct.item() == 6
    torch.testing.assert_close(loss, F.cross_entropy(logits, labels, reduction="sum"), **EXACT)
    loss, correct = masked_scores(LogitInputs(draw(0, E), inputs.matrix, inputs.bias), labels[:0])
    assert (loss.item(), correct.item()) == (0.0, 0)


# ------------------------------------------------------------------ the triple loss


@pytest.mark.parametrize("positions", ["attended", "masked"])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_three_ways_to_the_same_loss(positions: Positions, temperature: float) -> None:
    student, inputs = head_states(H, 20)
    teacher, _ = head_states(H, 40)
    labels = some_labels()
    weights = {"kl": 5.0, "mlm": 2.0, "cosine": 1.0, "mse": 0.25}
    wanted = reference(student, teacher, labels, temperature, positions)
    pure = distillation_terms(
        logits_of(student),
        logits_of(teacher),
        labels,
        student.hidden,
        teacher.hidden,
        temperature=temperature,
        positions=positions,
    )
    engine = DistillationLoss(temperature=temperature, positions=positions, **weights)
    found = engine(student, teacher, labels)
    total = sum((weights[name] * value for name, value in wanted.items()), torch.zeros(()))
    torch.testing.assert_close(found["loss"], total, **EXACT)
    for name, value in wanted.items():
        torch.testing.assert_close(getattr(pure, name), value, **EXACT)
        torch.testing.assert_close(found[name], value.detach(), **EXACT)
        assert not found[name].requires_grad
        assert_same_gradients(getattr(pure, name), value, inputs)
    assert_same_gradients(found["loss"], total, inputs)


@pytest.mark.parametrize("positions", ["attended", "masked"])
def test_the_pure_function_on_a_ragged_padded_batch(positions: Positions) -> None:
    """Padding changes nothing, whatever it holds."""
    mask = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]  # (B, S)
    packed = {
        "student_logits": draw(TOKENS, V, seed=1),
        "teacher_logits": draw(TOKENS, V, seed=2),
        "labels": some_labels(),
        "student_hidden": draw(TOKENS, H, seed=3),
        "teacher_hidden": draw(TOKENS, H, seed=4),
    }
    padded = {}
    for name, value in packed.items():
        fill = -100 if name == "labels" else 1e3
        padded[name] = value.new_full((*mask.shape, *value.shape[1:]), fill)
        padded[name][mask] = value
    alone = distillation_terms(**packed, positions=positions)
    for kind in (torch.bool, torch.int64):
        found = distillation_terms(**padded, attention_mask=mask.to(kind), positions=positions)
        for name in ("kl", "mlm", "cosine", "mse"):
            torch.testing.assert_close(getattr(found, name), getattr(alone, name), **EXACT)


def test_a_hand_computed_divergence() -> None:
    """KL((1/2, 1/2) | (3/4, 1/4)) = log 2 - log(3) / 2, at temperature 2 times 4."""
    teacher = torch.zeros(1, 1, 2, dtype=torch.float64)
    student = torch.tensor([[[2 * math.log(3.0), 0.0]]], dtype=torch.float64)
    terms = distillation_terms(student, teacher, torch.zeros(1, 1, dtype=torch.int64))
    assert terms.kl.item() == pytest.approx(4 * (math.log(2.0) - math.log(3.0) / 2), abs=1e-12)
    assert terms.mlm.item() == pytest.approx(-math.log(9 / 10), abs=1e-12)
    assert terms.mse.item() == pytest.approx(4 * math.log(3.0) ** 2, abs=1e-12)
    assert terms.cosine.item() == 0


def test_nothing_chosen_gives_zeros() -> None:
    logits, hidden = draw(2, 3, V).requires_grad_(), draw(2, 3, H).requires_grad_()
    terms = distillation_terms(
        logits,
        draw(2, 3, V, seed=1),
        torch.full((2, 3), -100),
        hidden,
        draw(2, 3, H, seed=1),
        torch.zeros(2, 3),
        positions="masked",
    )
    total = terms.kl + terms.mlm + terms.cosine + terms.mse
    assert total.item() == 0
    for gradient in torch.autograd.grad(total, [logits, hidden]):
        assert bool((gradient == 0).all())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"teacher_logits": draw(2, 3, V + 1)}, "teacher_logits (2, 3, 20): they must be equal"),
        (
            {"labels": torch.zeros(2, 2).long()},
            "labels: expected (2, 3) int64, got (2, 2) torch.int64",
        ),
        ({"attention_mask": torch.ones(3, 2)}, "attention_mask has shape (3, 2)"),
        ({"attention_mask": torch.zeros(2, 3)}, "at unattended positions"),
        ({"student_hidden": draw(2, 3, H)}, "Give both student_hidden and teacher_hidden"),
        (
            {"student_hidden": draw(2, 3, H), "teacher_hidden": draw(2, 3, 2 * H)},
            "student_hidden has shape (2, 3, 6), teacher_hidden (2, 3, 12)",
        ),
        (
            {"student_hidden": draw(2, 4, H), "teacher_hidden": draw(2, 4, H)},
            "student_hidden has shape (2, 4, 6), the logits (2, 3, 19)",
        ),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"positions": "all"}, "positions is 'all': expected 'attended' or 'masked'"),
    ],
)
def test_wrong_tensors_are_refused(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {
        "student_logits": draw(2, 3, V),
        "teacher_logits": draw(2, 3, V),
        "labels": torch.zeros(2, 3, dtype=torch.int64),
        **change,
    }
    with pytest.raises(InputError) as caught:
        distillation_terms(**arguments)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kl": -1.0}, "kl is -1.0: a weight is a finite number"),
        ({"mlm": math.inf}, "mlm is inf"),
        ({"cosine": math.nan}, "cosine is nan"),
        ({"mse": "1"}, "mse is '1'"),
        ({"mse": True}, "mse is True"),
        ({"kl": 0, "mlm": 0, "cosine": 0}, "All weights are 0"),
        ({"temperature": -2.0}, "temperature is -2.0"),
        ({"positions": "cls"}, "positions is 'cls'"),
    ],
)
def test_wrong_weights_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        DistillationLoss(**arguments)
    assert message in str(caught.value)


def test_the_loss_says_what_it_was_made_with() -> None:
    loss = DistillationLoss()
    expected = {"temperature": 2.0, "kl": 5.0, "mlm": 2.0, "cosine": 1.0, "mse": 0.0}
    assert loss.to_dict() == {**expected, "positions": "attended"}
    assert loss.terms == ("kl", "mlm", "cosine")
    assert "kl=5.0" in repr(loss)
    assert list(loss.parameters()) == []


@pytest.mark.parametrize("positions", ["attended", "masked"])
@pytest.mark.parametrize("parts", [(3, 11), (0, 14), (5, 5, 4)])
def test_parts_of_a_step_add_up(positions: Positions, parts: tuple[int, ...]) -> None:
    """Each part divides by the counts of the whole step."""
    student, inputs = head_states(H, 20)
    teacher, _ = head_states(H, 40)
    labels = some_labels()
    loss = DistillationLoss(mse=0.5, positions=positions)
    whole = loss(student, teacher, labels)
    counts = {"attended": TOKENS, "masked": int((labels >= 0).sum())}
    sums: dict[str, Tensor] = {}
    start = 0
    for size in parts:
        here = slice(start, start + size)
        start += size
        found = loss(cut(student, here), cut(teacher, here), labels[here], counts)
        sums = {name: sums.get(name, 0) + value for name, value in found.items()}
    assert sums.keys() == whole.keys()
    for name, value in whole.items():
        torch.testing.assert_close(sums[name], value, **EXACT)
    assert_same_gradients(sums["loss"], whole["loss"], inputs)


def cut(states: States, where: slice) -> States:
    return States(states.hidden[where], states.transform, states.matrix, states.bias)


@pytest.mark.parametrize(
    ("weights", "positions", "student_rows", "teacher_rows"),
    [
        ({}, "attended", TOKENS, TOKENS),
        ({}, "masked", 5, 5),
        ({"kl": 0}, "attended", 5, None),
        ({"kl": 0, "mse": 1}, "attended", TOKENS, TOKENS),
        ({"kl": 0, "mlm": 0}, "attended", 0, None),
        ({"kl": 0, "cosine": 0}, "attended", 5, None),
    ],
)
def test_logits_are_made_only_where_a_term_reads_them(
    weights: Mapping[str, float],
    positions: Positions,
    student_rows: int,
    teacher_rows: int | None,
) -> None:
    seen: dict[str, int] = {}

    def counted(name: str, states: States) -> States:
        def transform(rows: Tensor) -> Tensor:
            seen[name] = seen.get(name, 0) + rows.shape[0]
            assert states.transform is not None
            return states.transform(rows)

        return States(states.hidden, transform, states.matrix, states.bias)

    student, teacher = (head_states(H, seed)[0] for seed in (20, 40))
    loss = DistillationLoss(positions=positions, **weights)
    terms = loss(counted("student", student), counted("teacher", teacher), some_labels())
    assert terms.keys() == {"loss", *loss.terms}
    assert seen.get("student") == student_rows
    assert seen.get("teacher") == teacher_rows


def test_without_a_term_that_reads_it_no_teacher_is_needed() -> None:
    student, _ = head_states(H, 20)
    loss = DistillationLoss(kl=0, cosine=0)
    assert not loss.needs_teacher
    found = loss(student, None, some_labels())
    torch.testing.assert_close(
        found["loss"], 2 * F.cross_entropy(logits_of(student), some_labels())
    )
    with pytest.raises(InputError, match="teacher is None"):
        DistillationLoss()(student, None, some_labels())


def test_terms_without_what_they_need_are_refused() -> None:
    student, _ = head_states(H, 20)
    loss = DistillationLoss(kl=0, cosine=0, sentence_order=1)
    with pytest.raises(InputError, match="sentence_order needs pairs with labels"):
        loss(student, None, some_labels())
    layers = DistillationLoss(hidden_mse=1)
    with pytest.raises(InputError, match="hidden_mse compare layers: call fit_layers first"):
        _ = layers.layers


def test_the_whole_head_takes_part_when_only_states_are_compared() -> None:
    student, inputs = head_states(H, 20)
    teacher, _ = head_states(H, 40)
    found = DistillationLoss(kl=0, mlm=0)(student, teacher, some_labels())
    hidden, _, *head = inputs
    gradients = torch.autograd.grad(found["loss"], [hidden, *head])
    assert all(bool((gradient == 0).all()) for gradient in gradients[1:])
    assert bool((gradients[0] != 0).any())


def test_a_teacher_without_head_can_be_compared_by_states_alone() -> None:
    student, _ = head_states(H, 20)
    teacher = States(draw(TOKENS, H), None, draw(V, E), None)
    assert "cosine" in DistillationLoss(kl=0)(student, teacher, some_labels())
    for transform, bias in ((None, None), (student.transform, None), (None, student.bias)):
        half = States(teacher.hidden, transform, teacher.matrix, bias)
        with pytest.raises(InputError, match="without a masked-LM head"):
            DistillationLoss()(student, half, some_labels())


def test_states_of_another_width_go_through_a_learned_projection() -> None:
    student, inputs = head_states(H, 20)
    teacher, _ = head_states(H + 4, 40)
    loss = DistillationLoss(kl=0, mlm=0).double()
    with pytest.raises(InputError, match=r"\(14, 6\), the teacher's \(14, 10\).* call fit_widths"):
        loss(student, teacher, some_labels())
    assert loss.fit_widths(H, H + 4)
    loss.double()
    assert loss.projection is not None
    weight = loss.projection.weight  # (H + 4, H)
    identity = torch.eye(H, dtype=torch.float64)
    torch.testing.assert_close(weight.T @ weight, identity, rtol=0, atol=1e-5)
    found = loss(student, teacher, some_labels())
    projected = student.hidden @ weight.T
    wanted = (1 - F.cosine_similarity(projected, teacher.hidden)).mean()
    torch.testing.assert_close(found["loss"], wanted, **EXACT)
    assert_same_gradients(found["loss"], wanted, [inputs[0], weight])


def test_no_projection_where_none_is_needed() -> None:
    assert not DistillationLoss().fit_widths(H, H)
    assert not DistillationLoss(cosine=0).fit_widths(H, H + 4)
    loss = DistillationLoss()
    assert loss.fit_widths(H, H + 4)
    assert not loss.fit_widths(H, H)
    assert list(loss.parameters()) == []


def test_terms_are_plain_tensors() -> None:
    logits = draw(1, 2, V)
    terms = distillation_terms(logits, logits, torch.zeros(1, 2, dtype=torch.int64))
    assert isinstance(terms, DistillationTerms)
    assert (terms.kl.item(), terms.mse.item()) == (0.0, 0.0)
    with pytest.raises(AttributeError):
        terms.kl = logits  # type: ignore[misc]
