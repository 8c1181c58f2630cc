"""The exercises: a gap that is filled passes, an empty one fails, usual mistakes have a name.

Every gap is filled with what the library itself does.
"""

import importlib.util
import inspect
import random
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import minilm
from memory_store import MemoryStore, wordpiece
from minilm.blocks.embeddings import Embeddings
from minilm.blocks.kernels import additive_mask, explicit_attention
from minilm.blocks.layout import Padded
from minilm.blocks.transformer import TransformerLayer
from minilm.data.segment_pairs import SegmentPairs
from minilm.losses.elementary import kl_divergence

FOLDER = Path(__file__).parent.parent / "examples" / "exercises"
FILES = sorted(FOLDER.glob("[0-9]*.py"))


@pytest.fixture(autouse=True)
def folder_of_the_exercises(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Python puts first on its path when an exercise is run as a script."""
    monkeypatch.syspath_prepend(str(FOLDER))


def joined(sentences: list[list[int]]) -> list[int]:
    """The tokens of sentences in a row."""
    return [token for sentence in sentences for token in sentence]


def load(number: int) -> ModuleType:
    """The file of an exercise as a module."""
    path = FILES[number - 1]
    spec = importlib.util.spec_from_file_location(f"exercise_{number}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --- the solutions: the library's own lines ---


def attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    return explicit_attention(query, key, value, additive_mask(Padded(mask), query.dtype), 0.0)[0]


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    norm = nn.LayerNorm(x.shape[-1], eps=eps, dtype=x.dtype)
    norm.load_state_dict({"weight": weight, "bias": bias})
    return norm(x).detach()


def transformer_layer(x: Tensor, attention, attention_norm, feed_forward, feed_forward_norm):
    parts = SimpleNamespace(
        attention=lambda hidden, *_: (attention(hidden), None),
        attention_dropout=nn.Identity(),
        attention_norm=attention_norm,
        feed_forward=feed_forward,
        feed_forward_dropout=nn.Identity(),
        feed_forward_norm=feed_forward_norm,
    )
    return TransformerLayer.forward(parts, x, Padded(None))


def embed(input_ids, word, token_type, position, norm, projection):
    tables = {"word": word, "token_type": token_type, "position": position}
    parts = SimpleNamespace(norm=norm, dropout=nn.Identity(), projection=projection)
    for name, table in tables.items():
        setattr(parts, name, nn.Embedding.from_pretrained(table))
    places = torch.arange(input_ids.shape[1])[None]
    return Embeddings.forward(parts, input_ids, places, torch.zeros_like(input_ids))


def embedding_parameters(vocab_size: int, embedding_size: int, hidden_size: int) -> int:
    config = minilm.AlbertConfig(
        vocab_size=vocab_size, embedding_size=embedding_size, hidden_size=hidden_size
    )
    parts = minilm.cost(config).parts
    return parts["word embeddings"].parameters + parts["embedding projection"].parameters


def apply_layers(hidden: Tensor, groups: Any, depth: int) -> Tensor:
    parts = SimpleNamespace(
        config=SimpleNamespace(num_hidden_layers=depth),
        groups=[lambda x, _, group=group: group(x) for group in groups],
    )
    return minilm.AlbertModel.run_layers(parts, hidden, None)


def kl_loss(student: Tensor, teacher: Tensor, mask: Tensor, temperature: float) -> Tensor:
    return kl_divergence(student[mask], teacher[mask], temperature).mean()


def sentence_order_pair(sentences: list[list[int]], draw: random.Random):
    tokenizer = wordpiece(size=50)
    lengths = [[len(sentence) for sentence in sentences]]
    store = MemoryStore(tokenizer, [joined(sentences)], lengths)
    pairs = SegmentPairs(
        store, task="sentence_order", max_length=64, short_probability=0, min_length=0
    )
    pairs.cls_id, pairs.sep_id = 2, 3
    seed = draw.getrandbits(32)
    found = pairs.samples(seed, 0).gather(torch.zeros(1, dtype=torch.int64).numpy())
    assert found.token_type_ids is not None
    assert found.sentence_labels is not None
    return found.ids.tolist(), found.token_type_ids.tolist(), int(found.sentence_labels[0])


def lamb_step(weight, gradient, mean, square, *, lr, betas, eps, weight_decay):
    parameter = nn.Parameter(weight.clone())
    parameter.grad = gradient
    optimiser = minilm.Lamb([parameter], lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
    optimiser.state[parameter] = {
        "exp_avg": mean.clone(),
        "exp_avg_sq": square.clone(),
        "step": torch.zeros(()),
    }
    optimiser.step()
    state = optimiser.state[parameter]
    return parameter.detach(), state["exp_avg"], state["exp_avg_sq"]


SOLUTIONS: dict[int, tuple[Callable[..., Any], ...]] = {
    1: (attention,),
    2: (layer_norm, transformer_layer),
    3: (embed, embedding_parameters, apply_layers),
    4: (kl_loss,),
    5: (sentence_order_pair,),
    6: (lamb_step,),
}


def filled(number: int) -> str:
    """The text of an exercise with every gap filled by the solution of its name."""
    text = FILES[number - 1].read_text()
    for answer in SOLUTIONS[number]:
        name = answer.__name__
        start = text.index(f"def {name}(")
        gap = text.index("    raise NotImplementedError(", start)
        end = text.index("\n", gap)
        named = ", ".join(
            f"{key}={key}" if parameter.kind is parameter.KEYWORD_ONLY else key
            for key, parameter in inspect.signature(getattr(load(number), name)).parameters.items()
        )
        call = f"    import test_exercises\n\n    return test_exercises.{name}({named})"
        text = text[:gap] + call + text[end:]
    return text


def test_there_are_six_exercises() -> None:
    assert [path.name[0] for path in FILES] == list("123456")
    assert sorted(SOLUTIONS) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("number", SOLUTIONS)
def test_a_filled_exercise_passes(
    number: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = filled(number)
    assert "raise NotImplementedError" not in text
    file = tmp_path / FILES[number - 1].name
    file.write_text(text)
    monkeypatch.setattr(sys, "argv", [str(file)])
    runpy.run_path(str(file), run_name="__main__")  # ends without sys.exit
    assert capsys.readouterr().out.startswith(f"{file.name}: passed.")


@pytest.mark.parametrize("number", SOLUTIONS)
def test_an_empty_exercise_says_what_to_write(
    number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = FILES[number - 1]
    monkeypatch.setattr(sys, "argv", [str(file)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(file), run_name="__main__")
    assert ended.value.code == 1
    shown = capsys.readouterr().out
    first = SOLUTIONS[number][0].__name__
    assert f"{file.name}: there is still a gap to fill. Write the body of {first}()" in shown


@pytest.mark.parametrize("number", SOLUTIONS)
def test_every_gap_is_checked(number: int) -> None:
    """With one gap left empty the check does not pass."""
    module = load(number)
    for place, answer in enumerate(SOLUTIONS[number]):
        answers = list(SOLUTIONS[number])
        answers[place] = getattr(module, answer.__name__)
        with pytest.raises(NotImplementedError, match=rf"body of {answer.__name__}\(\)"):
            module.check(*answers)


def test_an_error_in_an_answer_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = FILES[0].read_text()
    gap = next(line for line in text.splitlines() if "raise NotImplementedError" in line)
    file = tmp_path / "mine.py"
    file.write_text(text.replace(gap, "    return query @ key"))
    monkeypatch.setattr(sys, "argv", [str(file)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(file), run_name="__main__")
    assert ended.value.code == 1
    shown = capsys.readouterr()
    assert "return query @ key" in shown.err
    assert "your code ended with the error above" in shown.out


# --- wrong answers ---


def wrong_attention(
    *,
    scale: Callable[[Tensor, int], Tensor] = lambda scores, size: scores / size**0.5,
    axis: int = -1,
    fill: float = -1e30,
    invert: bool = False,
    masked: bool = True,
    after: bool = False,
    value: bool = True,
) -> Callable[..., Tensor]:
    def answer(query: Tensor, key: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        scores = scale(query @ key.mT, query.shape[-1])
        allowed = ~mask if invert else mask
        if masked and not after:
            scores = scores.masked_fill(~allowed[:, None, None, :], fill)
        shares = scores.softmax(axis)
        if after:
            shares = shares * allowed[:, None, None, :]
        return shares @ values if value else shares @ values.flip(-1)

    return answer


ATTENTION = [
    ("scale is missing", wrong_attention(scale=lambda scores, size: scores)),
    ("divided by D.", wrong_attention(scale=lambda scores, size: scores / size)),
    (
        r"divided by sqrt\(S\)",
        wrong_attention(scale=lambda scores, size: scores / scores.shape[-1] ** 0.5),
    ),
    (
        r"divided by sqrt\(H\)",
        wrong_attention(scale=lambda scores, size: scores / (size * scores.shape[1]) ** 0.5),
    ),
    (
        r"multiplied by sqrt\(D\)",
        wrong_attention(scale=lambda scores, size: scores * size**0.5),
    ),
    ("softmax runs over the wrong axis", wrong_attention(axis=-2)),
    ("Is there a softmax", lambda query, key, value, mask: query @ key.mT @ value),
    ("The mask is not used", wrong_attention(masked=False)),
    ("sign of the mask is wrong", wrong_attention(invert=True)),
    ("A score of 0 is not a share of 0", wrong_attention(fill=0.0)),
    ("mask comes after the softmax", wrong_attention(after=True)),
    ("minus infinity everywhere is 0 / 0", wrong_attention(fill=-torch.inf)),
    ("not a tensor. Is there a `return`", lambda query, key, value, mask: None),
    ("shape", lambda query, key, value, mask: query @ key.mT),
]


def wrong_norm(
    *,
    axis: int | None = -1,
    unbiased: bool = False,
    root: Callable[[Tensor, float], Tensor] = lambda variance, eps: (variance + eps).sqrt(),
    centre: bool = True,
    weighted: Callable[[Tensor, Tensor, Tensor], Tensor] = lambda x, w, b: x * w + b,
) -> Callable[..., Tensor]:
    def answer(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        axes = tuple(range(x.dim())) if axis is None else axis
        variance = x.var(axes, unbiased=unbiased, keepdim=True)
        middle = x.mean(axes, keepdim=True) if centre else 0
        return weighted((x - middle) / root(variance, eps), weight, bias)

    return answer


def rms_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight + bias


NORM = [
    ("Bessel", wrong_norm(unbiased=True)),
    (
        "Bessel.*outside",
        wrong_norm(unbiased=True, root=lambda variance, eps: variance.sqrt() + eps),
    ),
    (
        "added to the standard deviation",
        wrong_norm(root=lambda variance, eps: variance.sqrt() + eps),
    ),
    ("root is missing", wrong_norm(root=lambda variance, eps: variance + eps)),
    ("eps is not used", wrong_norm(root=lambda variance, eps: variance.sqrt())),
    ("RMS norm", rms_norm),
    ("but not from x", wrong_norm(centre=False)),
    ("wrong axis", wrong_norm(axis=1)),
    ("all numbers of the batch", wrong_norm(axis=None)),
    ("weight and bias are not used", wrong_norm(weighted=lambda x, w, b: x)),
    ("bias is not added", wrong_norm(weighted=lambda x, w, b: x * w)),
    ("before the weight multiplies", wrong_norm(weighted=lambda x, w, b: (x + b) * w)),
]


def in_place(x, a, n1, f, n2):
    x += a(x)
    x = n1(x)
    x += f(x)
    return n2(x)


def second_from_first(x, a, n1, f, n2):
    return n2(x + f(n1(x + a(x))))


def norm_inside(x, a, n1, f, n2):
    x = x + n1(a(x))
    return x + n2(f(x))


def pre_norm(x, a, n1, f, n2):
    x = x + a(n1(x))
    return x + f(n2(x))


def no_first_residual(x, a, n1, f, n2):
    x = n1(a(x))
    return n2(x + f(x))


def swapped_norms(x, a, n1, f, n2):
    return transformer_layer(x, a, n2, f, n1)


def swapped_blocks(x, a, n1, f, n2):
    return transformer_layer(x, f, n1, a, n2)


LAYER = [
    ("pre-norm", pre_norm),
    ("The residuals are missing", lambda x, a, n1, f, n2: n2(f(n1(a(x))))),
    ("residual of attention is missing", no_first_residual),
    ("residual of the feed-forward", lambda x, a, n1, f, n2: n2(f(n1(x + a(x))))),
    ("second residual starts from the first x", second_from_first),
    ("added after the norm", norm_inside),
    ("two norms are swapped", swapped_norms),
    ("two blocks are swapped", swapped_blocks),
    ("feed_forward is applied 0 times", lambda x, a, n1, f, n2: n2(n1(x + a(x)))),
    ("changed in place", in_place),
    ("feed-forward block reads the first x", lambda x, a, n1, f, n2: n2(n1(x + a(x)) + f(x))),
]


def wrong_embedding(
    *, positions: Any = None, kind: int | None = 0, late: bool = False, normed: bool = True
) -> Callable[..., Tensor]:
    def answer(ids, word, token_type, position, norm, projection):
        length = ids.shape[1]
        places = position[:length] if positions is None else positions(position, length)
        x = word[ids]
        if kind is not None:
            x = x + token_type[kind]
        if late:
            return projection(norm(x) + places)
        x = x + places
        return projection(norm(x) if normed else x)

    return answer


def whole_vocabulary(ids, word, token_type, position, norm, projection):
    table = torch.stack([norm(word + token_type[0] + row) for row in position[: ids.shape[1]]])
    wide = projection(table)  # (S, V, H)
    return torch.stack([wide[torch.arange(ids.shape[1]), row] for row in ids])


EMBED = [
    ("positions are missing", wrong_embedding(positions=lambda table, length: 0)),
    ("token type is missing", wrong_embedding(kind=None)),
    ("norm is missing", wrong_embedding(normed=False)),
    ("added after the norm", wrong_embedding(late=True)),
    ("Token type 1", wrong_embedding(kind=1)),
    ("Position 1", wrong_embedding(positions=lambda table, length: table[1 : length + 1])),
    ("not the whole vocabulary", whole_vocabulary),
    (
        "norm acts on vectors of width H",
        lambda ids, w, t, p, norm, projection: norm(projection(w[ids])),
    ),
    ("projection is missing", lambda ids, w, t, p, norm, _: norm(w[ids] + t[0] + p[:5])),
]
COUNT = [
    ("V x H", lambda v, e, h: v * h),
    ("E x H numbers and a bias", lambda v, e, h: v * e),
    ("bias of the projection", lambda v, e, h: v * e + e * h),
    ("expected 3,", lambda v, e, h: 7),
]


def in_turns(hidden, groups, depth):
    for number in range(depth):
        hidden = groups[number % len(groups)](hidden)
    return hidden


def copies(hidden, groups, depth):
    import copy

    for number in range(depth):
        hidden = copy.deepcopy(groups[number * len(groups) // depth])(hidden)
    return hidden


def once(hidden, groups, depth):
    for group in groups:
        hidden = group(hidden)
    return hidden


def all_from_the_start(hidden, groups, depth):
    for number in range(depth):
        found = groups[number * len(groups) // depth](hidden)
    return found


APPLY = [
    ("take turns", in_turns),
    ("copy.deepcopy", copies),
    ("applied once", once),
    ("each reads what the one before it made", all_from_the_start),
]


def wrong_kl(
    *,
    factor: Callable[[float], float] = lambda t: t * t,
    divide: str = "tokens",
    padding: bool = False,
    turned: bool = False,
    soften: str = "both",
    term: str = "kl",
) -> Callable[..., Tensor]:
    def answer(student: Tensor, teacher: Tensor, mask: Tensor, t: float) -> Tensor:
        kept = torch.ones_like(mask) if padding else mask
        s, q = (student[kept], teacher[kept])
        s = s / t if soften in ("both", "student") else s * t if soften == "multiplied" else s
        q = q / t if soften in ("both", "teacher") else q * t if soften == "multiplied" else q
        if turned:
            s, q = q, s
        log_p, log_q = s.log_softmax(-1), q.log_softmax(-1)
        if term == "kl":
            each = log_q.exp() * (log_q - log_p)
        elif term == "cross-entropy":
            each = -log_q.exp() * log_p
        elif term == "sign":
            each = log_q.exp() * (log_p - log_q)
        else:
            each = F.kl_div(log_p.exp(), log_q.exp(), reduction="none")
        counts = {"tokens": kept.sum(), "texts": len(mask), "positions": mask.numel(), "no": 1}
        counts["vocabulary"] = kept.sum() * student.shape[-1]
        return each.sum() / counts[divide] * factor(t)

    return answer


KL = [
    ("T squared is missing", wrong_kl(factor=lambda t: 1)),
    ("multiplied by T. Multiply by T squared", wrong_kl(factor=lambda t: t)),
    ("divided by T squared", wrong_kl(factor=lambda t: t**-2)),
    ("The mean is unmasked: it runs over padding, too.$", wrong_kl(padding=True)),
    ("unmasked.*and T squared", wrong_kl(padding=True, factor=lambda t: 1)),
    ("not of the number it is divided by", wrong_kl(divide="positions")),
    ("number of texts", wrong_kl(divide="texts")),
    ("sum over all tokens", wrong_kl(divide="no")),
    ("Divided by the vocabulary, too .reduction='mean'.. The", wrong_kl(divide="vocabulary")),
    ("vocabulary.*and T squared", wrong_kl(divide="vocabulary", factor=lambda t: 1)),
    ("are swapped: this is KL", wrong_kl(turned=True)),
    ("swapped, and T squared", wrong_kl(turned=True, factor=lambda t: 1)),
    ("Only the teacher is softened", wrong_kl(soften="teacher")),
    ("Only the student is softened", wrong_kl(soften="student")),
    ("logits are multiplied by T", wrong_kl(soften="multiplied")),
    ("not used in the softmax", wrong_kl(soften="no")),
    ("The temperature is not used.$", wrong_kl(soften="no", factor=lambda t: 1)),
    ("cross-entropy: sum of", wrong_kl(term="cross-entropy")),
    ("given probabilities of the student", wrong_kl(term="probabilities")),
    ("The sign is wrong", wrong_kl(term="sign")),
    ("0 / 0 = NaN", wrong_kl()),
    (
        "teacher's first choice",
        lambda s, t, mask, _: F.cross_entropy(s[mask], t[mask].argmax(-1)),
    ),
    ("No gradient", lambda *given: kl_loss(*given).detach()),
]


def wrong_pair(
    *,
    swaps: Callable[[float], bool] = lambda number: number < 0.5,
    label: Callable[[bool], int] = int,
    types: str = "place",
    cut: str = "sentences",
    turned: str = "segments",
    last: bool = True,
) -> Callable[..., Any]:
    def answer(sentences: list[list[int]], draw: random.Random):
        if cut == "tokens":
            tokens = joined(sentences)
            place = draw.randint(1, len(tokens) - 1)
            a, b = tokens[:place], tokens[place:]
        else:
            least, most = (0, 0) if cut == "empty" else (1, len(sentences) - 1)
            place = most if cut == "last" else draw.randint(least, most)
            a, b = joined(sentences[:place]), joined(sentences[place:])
        swap = swaps(draw.random())
        if swap and turned == "sentences":
            b, a = joined(sentences[:place][::-1]), joined(sentences[place:][::-1])
        elif swap:
            a, b = b, a
        if swap and turned == "tokens":
            a, b = a[::-1], b[::-1]
        ids = [2, *a, 3, *b, 3] if last else [2, *a, 3, *b]
        kinds = [0] * (len(a) + 2) + [1] * (len(b) + 1)
        if types == "segment" and swap:
            kinds = [0] + [1] * (len(a) + 1) + [0] * (len(b) + 1)
        elif types == "separator":
            kinds[len(a) + 1] = 1
        elif types == "zero":
            kinds = [0] * len(kinds)
        elif types == "short":
            kinds = kinds[1:]
        return ids, kinds, label(swap)

    return answer


PAIR = [
    ("label is the wrong way round", wrong_pair(label=lambda swap: int(not swap))),
    ("No pair is swapped", wrong_pair(swaps=lambda number: False)),
    ("All pairs are swapped", wrong_pair(swaps=lambda number: True)),
    ("10%|11%|9%|8%|12%", wrong_pair(swaps=lambda number: number < 0.1)),
    ("token types moved with the segments", wrong_pair(types="segment")),
    (r"first \[SEP\] has token type 1", wrong_pair(types="separator")),
    (r"last \[SEP\] belongs to the second", wrong_pair(types="zero")),
    ("token types for", wrong_pair(types="short")),
    ("Cut between sentences", wrong_pair(cut="tokens")),
    ("A segment is empty", wrong_pair(cut="empty")),
    (r"No segment A has 1, 2 sentence", wrong_pair(cut="last")),
    ("The sentences were reversed", wrong_pair(turned="sentences")),
    ("The tokens were reversed", wrong_pair(turned="tokens")),
    (r"Expected one \[SEP\] after each", wrong_pair(last=False)),
    ("returns three things", lambda sentences, draw: [1, 2]),
]


def wrong_lamb(
    *,
    ratio: Callable[..., Tensor | float] = lambda w, u, **_: w.norm() / u.norm(),
    decay: str = "in",
    corrected: bool = False,
    root: str = "outside",
    sign: float = -1.0,
    moments: str = "new",
) -> Callable[..., Any]:
    def answer(w, g, m, v, *, lr, betas, eps, weight_decay):
        b1, b2 = betas
        old = m, v
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        if moments == "plain gradient":
            m = old[0] + g
        elif moments == "swapped":
            m = (1 - b1) * old[0] + b1 * g
        elif moments == "not squared":
            v = b2 * old[1] + (1 - b2) * g
        elif moments == "one share":
            v = b1 * old[1] + (1 - b1) * g**2
        first, second = old if moments == "old" else (m, v)
        if moments == "gradient":
            first = g
        if corrected:
            first, second = first / (1 - b1), second / (1 - b2)
        adam = first / ((second + eps).sqrt() if root == "inside" else second.sqrt() + eps)
        if root == "none":
            adam = first / (second + eps)
        u = adam if decay in ("after", "none") else adam + weight_decay * w
        of = adam if decay == "not in norm" else u
        step = ratio(w, of, g=g) * u
        if decay == "after":
            step = step + weight_decay * w
        return w + sign * lr * step, m, v

    return answer


def by_row(w: Tensor, u: Tensor, **_: Tensor) -> Tensor:
    return w.norm(dim=-1, keepdim=True) / u.norm(dim=-1, keepdim=True)


def guards_the_weight(w: Tensor, u: Tensor, **_: Tensor) -> Tensor:
    return torch.where(w.norm() > 0, w.norm() / u.norm(), 1.0)


def small_ratio(w: Tensor, u: Tensor, **_: Tensor) -> Tensor:
    return torch.where((w.norm() > 0) & (u.norm() > 0), w.norm() / u.norm(), 0.5)


LAMB = [
    ("trust ratio is missing", wrong_lamb(ratio=lambda w, u, **_: 1.0)),
    ("trust ratio is inverted", wrong_lamb(ratio=lambda w, u, **_: u.norm() / w.norm())),
    (r"\|w\| / \|g\|", wrong_lamb(ratio=lambda w, u, g: w.norm() / g.norm())),
    ("for each row", wrong_lamb(ratio=by_row)),
    ("for each weight", wrong_lamb(ratio=lambda w, u, **_: w.abs() / u.abs())),
    ("sums of absolute", wrong_lamb(ratio=lambda w, u, **_: w.abs().sum() / u.abs().sum())),
    ("decay is added after", wrong_lamb(decay="after")),
    ("decay is not in the norm", wrong_lamb(decay="not in norm")),
    ("decay is missing", wrong_lamb(decay="none")),
    ("corrected as in Adam", wrong_lamb(corrected=True)),
    ("under the root", wrong_lamb(root="inside")),
    ("root of v is missing", wrong_lamb(root="none")),
    ("up the hill", wrong_lamb(sign=1.0)),
    ("m is m . g", wrong_lamb(moments="plain gradient")),
    ("shares of m are swapped", wrong_lamb(moments="swapped")),
    ("not squared", wrong_lamb(moments="not squared")),
    ("made with b1", wrong_lamb(moments="one share")),
    ("old m and v were used", wrong_lamb(moments="old")),
    ("direction is the gradient", wrong_lamb(moments="gradient")),
    ("the trust ratio is x / 0", wrong_lamb(ratio=guards_the_weight)),
    ("trust ratio is zero", wrong_lamb()),
    ("Is the trust ratio 1", wrong_lamb(ratio=small_ratio)),
    ("three things", lambda *given, **numbers: given[0]),
    ("does not change", lambda *given, **numbers: (given[0], *lamb_step(*given, **numbers)[1:])),
]

WRONG = [
    *((1, 0, name, answer) for name, answer in ATTENTION),
    *((2, 0, name, answer) for name, answer in NORM),
    *((2, 1, name, answer) for name, answer in LAYER),
    *((3, 0, name, answer) for name, answer in EMBED),
    *((3, 1, name, answer) for name, answer in COUNT),
    *((3, 2, name, answer) for name, answer in APPLY),
    *((4, 0, name, answer) for name, answer in KL),
    *((5, 0, name, answer) for name, answer in PAIR),
    *((6, 0, name, answer) for name, answer in LAMB),
]


@pytest.mark.parametrize(
    ("number", "gap", "name", "answer"), WRONG, ids=[f"{n}-{name}" for n, _, name, _ in WRONG]
)
def test_usual_mistakes_are_named(
    number: int, gap: int, name: str, answer: Callable[..., Any]
) -> None:
    module = load(number)
    answers = list(SOLUTIONS[number])
    answers[gap] = answer
    with pytest.raises(module.run.__globals__["WrongAnswer"], match=name):
        module.check(*answers)


def test_an_unknown_mistake_is_refused_with_both_numbers() -> None:
    module = load(4)
    with pytest.raises(module.run.__globals__["WrongAnswer"], match=r"is 0.1230, expected 2\.\d+"):
        module.check(lambda *given: torch.tensor(0.123))


def test_the_page_of_the_exercises_lists_them() -> None:
    page = (FOLDER / "README.md").read_text()
    for path in FILES:
        assert f"python examples/exercises/{path.name}" in page
