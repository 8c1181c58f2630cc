"""Exercise 2: the transformer layer.

BERT, DistilBERT and ALBERT are built from one kind of layer. Attention mixes information between
tokens, a feed-forward block works on each token alone, and around both there are two things that
make deep models trainable:

- a *residual*: a block does not replace its input x, it adds to it: x + block(x),
- a *layer norm* after it: every token's vector gets mean 0 and variance 1 over its H numbers, and
  is then scaled and shifted by learned vectors.

    x = norm(x + attention(x))
    x = norm(x + feed_forward(x))

BERT puts the norm after the residual ("post-norm"); GPT-2 and most later models put it before the
block ("pre-norm"). A checkpoint only works with the order it was trained with.

The variance of a layer norm is the mean of the squared deviations, divided by H. `torch.var`
divides by H - 1 unless told otherwise (Bessel's correction). With H = 768 the difference is 0.07 %
in every layer: too small to see in one sentence, large enough to be wrong.

Fill in `layer_norm` and `transformer_layer`, without torch's layer norm, and run the check:
`python examples/exercises/2_transformer_layer.py`

In the library: `TransformerLayer` in minilm/blocks/transformer.py, with torch.nn.LayerNorm.
References: Ba et al. 2016; Vaswani et al. 2017, section 3; Devlin et al. 2019.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from checking import explain, require, require_tensor, run
from torch import Tensor


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """(x - mean) / sqrt(variance + eps) * weight + bias, for every token on its own.

    Args:
        x: (..., H).
        weight, bias: (H,) learned.
        eps: keeps a vector of equal numbers from being divided by 0.

    Returns:
        (..., H).
    """
    raise NotImplementedError("Write the body of layer_norm(): about three lines.")


def transformer_layer(
    x: Tensor,
    attention: Callable[[Tensor], Tensor],
    attention_norm: Callable[[Tensor], Tensor],
    feed_forward: Callable[[Tensor], Tensor],
    feed_forward_norm: Callable[[Tensor], Tensor],
) -> Tensor:
    """One layer of BERT, without dropout.

    Args:
        x: (B, S, H).
        attention, feed_forward: the two blocks.
        attention_norm, feed_forward_norm: the norm after each of them.

    Returns:
        (B, S, H).
    """
    raise NotImplementedError("Write the body of transformer_layer(): two lines.")


def check(layer_norm, transformer_layer):
    """Compares with torch's layer norm, then watches which block is given what."""
    torch.manual_seed(0)
    texts, length, hidden = 2, 3, 8
    x = torch.randn(texts, length, hidden, dtype=torch.float64) * 2 + 1
    weight, bias = 1 + torch.randn(2, hidden, dtype=torch.float64) / 4
    eps = 0.1  # far larger than BERT's 1e-12, so that its place shows

    found = layer_norm(x, weight, bias, eps)
    require_tensor("layer_norm(...)", found, (texts, length, hidden))
    deviations = x - x.mean(-1, keepdim=True)
    variance = deviations.square().mean(-1, keepdim=True)
    others = {
        "The norm is biased by Bessel's correction: it divides by H - 1. Use "
        "var(unbiased=False), the mean of the squared deviations.": deviations
        / (variance * hidden / (hidden - 1) + eps).sqrt(),
        "Bessel's correction, and eps outside of the root: the norm is sqrt(variance + eps), the "
        "variance divided by H.": deviations / ((variance * hidden / (hidden - 1)).sqrt() + eps),
        "eps is added to the standard deviation. Add it to the variance, under the root.": (
            deviations / (variance.sqrt() + eps)
        ),
        "The root is missing: divide by the standard deviation, not by the variance.": deviations
        / (variance + eps),
        "eps is not used: a vector of equal numbers would be 0 / 0.": deviations / variance.sqrt(),
        "The mean is not taken off (that would be an RMS norm).": x
        / (x.square().mean(-1, keepdim=True) + eps).sqrt(),
        "The mean is taken off for the variance, but not from x.": x / (variance + eps).sqrt(),
        "Mean and variance run over the wrong axis: over the tokens of a text. They belong to the "
        "last axis, the H numbers of a token.": (x - x.mean(1, keepdim=True))
        / (x.var(1, keepdim=True, unbiased=False) + eps).sqrt(),
        "Mean and variance run over all numbers of the batch. They belong to the last axis, the H "
        "numbers of a token.": (x - x.mean()) / (x.var(unbiased=False) + eps).sqrt(),
    }
    mistakes = {message: value * weight + bias for message, value in others.items()}
    right = deviations / (variance + eps).sqrt()
    mistakes["weight and bias are not used."] = right
    mistakes["The bias is not added."] = right * weight
    mistakes["The bias is added before the weight multiplies."] = (right + bias) * weight
    wanted = F.layer_norm(x, (hidden,), weight, bias, eps)
    explain(found, wanted, mistakes, "layer_norm(...)")

    calls: list[str] = []

    def block(name: str, matrix: Tensor) -> Callable[[Tensor], Tensor]:
        def apply(value: Tensor) -> Tensor:
            calls.append(name)
            return torch.tanh(value @ matrix)

        return apply

    def norm(name: str, scale: float) -> Callable[[Tensor], Tensor]:
        def apply(value: Tensor) -> Tensor:
            calls.append(name)
            return F.layer_norm(value, (hidden,)) * scale

        return apply

    matrices = torch.randn(2, hidden, hidden, dtype=torch.float64)
    a, f = block("attention", matrices[0]), block("feed_forward", matrices[1])
    n1, n2 = norm("attention_norm", 1.5), norm("feed_forward_norm", 0.5)
    before = x.clone()
    found = transformer_layer(x, a, n1, f, n2)
    names = list(calls)
    require_tensor("transformer_layer(...)", found, (texts, length, hidden))
    require(
        torch.equal(x, before), "The input x was changed in place (x += ...). Write x = x + ..."
    )
    for name in ("attention", "attention_norm", "feed_forward", "feed_forward_norm"):
        require(
            names.count(name) == 1,
            f"{name} is applied {names.count(name)} times; each block and each norm acts once.",
        )
    middle = n1(x + a(x))
    wanted = n2(middle + f(middle))
    pre = x + a(n1(x))
    inner = n1(a(x))
    mistakes = {
        "This is pre-norm, as in GPT-2: the norm acts before the block. BERT adds first and "
        "normalises the sum: norm(x + block(x)).": pre + f(n2(pre)),
        "The residuals are missing: norm(x + block(x)), not norm(block(x)).": n2(f(inner)),
        "The residual of attention is missing: norm(x + attention(x)).": n2(inner + f(inner)),
        "The residual of the feed-forward block is missing: norm(x + feed_forward(x)).": n2(
            f(middle)
        ),
        "The second residual starts from the first x. It starts from what attention_norm made: "
        "the feed-forward block adds to its own input.": n2(x + f(middle)),
        "The feed-forward block reads the first x. It reads what attention_norm made.": n2(
            middle + f(x)
        ),
        "The residual is added after the norm: x + norm(block(x)). Normalise the sum.": (
            (x + inner) + n2(f(x + inner))
        ),
        "The two norms are swapped.": n1(n2(x + a(x)) + f(n2(x + a(x)))),
        "The two blocks are swapped: attention comes first.": n2(n1(x + f(x)) + a(n1(x + f(x)))),
    }
    explain(found, wanted, mistakes, "transformer_layer(...)")


if __name__ == "__main__":
    run(check, layer_norm, transformer_layer)
