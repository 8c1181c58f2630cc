"""Exercise 1: scaled dot-product attention.

Every token asks a question (its query), every token has a label (its key) and a content (its
value). How well the query of one token fits the key of another is their dot product. A softmax
turns the scores of one query into shares that sum to 1, and the result is the mean of the values,
weighted with these shares:

    softmax(Q K^T / sqrt(D)) V

Three details matter:

- Without the division by sqrt(D), scores grow with the size D of a head, the softmax takes one
  token alone, and hardly any gradient is left.
- The softmax runs over the keys: the shares of one query sum to 1.
- Texts in a batch have different lengths. Positions without a token must get no share, so their
  scores become a large negative number before the softmax. The library takes half of the smallest
  number of the dtype, not minus infinity: a row without any token would be 0 / 0 otherwise.

Fill in `attention` and run the check: `python examples/exercises/1_attention.py`

In the library: `explicit_attention` and `additive_mask` in minilm/blocks/kernels.py.
References: Vaswani et al. 2017, section 3.2.
"""

import torch
from checking import WrongAnswer, equal, require, require_tensor, run
from torch import Tensor

from minilm.blocks.kernels import additive_mask, explicit_attention
from minilm.blocks.layout import Padded


def attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """softmax(Q K^T / sqrt(D)) V for a batch of texts with several heads.

    Args:
        query, key, value: (B, A, S, D): texts, heads, positions, numbers of a head.
        mask: (B, S) bool: True where there is a token, False where there is padding.

    Returns:
        (B, A, S, D).
    """
    raise NotImplementedError("Write the body of attention(): about four lines.")


def check(attention):
    """Takes the shares out of the answer and looks at them: with V = 1 the result is the shares."""
    torch.manual_seed(0)
    texts, heads, length, size = 2, 3, 5, 16
    query, key, value = torch.randn(3, texts, heads, length, size, dtype=torch.float64)
    mask = torch.ones(texts, length, dtype=torch.bool)

    # the identity matrix as values: row i of the result is what position i takes of each position
    eye = torch.eye(length, size, dtype=query.dtype).expand(texts, heads, length, size)
    shares = attention(query, key, eye, mask)
    require_tensor("attention(...)", shares, (texts, heads, length, size))
    shares = shares[..., :length]  # (B, A, S, S)
    ones = torch.ones(texts, heads, length)
    if not equal(shares.sum(-1), ones):
        require(
            not equal(shares.sum(-2), ones),
            "The softmax runs over the wrong axis: the shares of one key over all queries sum to "
            "1. It must be the shares of one query over all keys, the last axis of Q K^T.",
        )
        raise WrongAnswer(
            f"The shares of the first query sum to {shares[0, 0, 0].sum():.3f}, not to 1. "
            "Is there a softmax?"
        )
    scores = query @ key.transpose(-1, -2)
    steepness = _slope(scores, shares)
    for factor, message in (
        (1.0, "The scale is missing: divide the scores by sqrt(D)."),
        (1 / size, "The scores are divided by D. Divide them by sqrt(D)."),
        (length**-0.5, "The scores are divided by sqrt(S), the length. D is the size of a head."),
        ((heads * size) ** -0.5, "The scores are divided by sqrt(H). D is the size of one head."),
        (size**0.5, "The scores are multiplied by sqrt(D). Divide them by it."),
    ):
        require(abs(steepness - factor) > 1e-3 * factor, message)

    mask[0, 3:] = False  # the first text has three tokens
    shares = attention(query, key, eye, mask)[..., :length]
    inside, padding = shares[0, :, :, :3], shares[0, :, :, 3:]
    require(
        not equal(shares, _shares(query, key, torch.ones_like(mask))),
        "The mask is not used: padding gets a share.",
    )
    require(
        bool(inside.sum() > padding.sum()),
        "The sign of the mask is wrong: padding gets all shares, the tokens none. "
        "In the mask True means that there is a token.",
    )
    if not equal(padding, torch.zeros(padding.shape)):
        raise WrongAnswer(
            f"Padding still gets shares up to {padding.max():.3f}. A score of 0 is not a share of "
            "0: exp(0) is 1. Put a large negative number there before the softmax."
        )
    require(
        equal(inside.sum(-1), torch.ones(heads, length)),
        "The mask comes after the softmax: the shares of the tokens sum to less than 1. Mask the "
        "scores, then take the softmax.",
    )

    mask[1] = False  # a row without any token
    found = attention(query, key, eye, mask)
    require(
        bool(found.isfinite().all()),
        "A row without any token becomes NaN: minus infinity everywhere is 0 / 0. Use a large "
        "finite number, such as torch.finfo(scores.dtype).min / 2.",
    )
    mask[1] = torch.tensor([True, True, False, False, False])
    found = attention(query, key, value, mask)
    added = additive_mask(Padded(mask), value.dtype)
    wanted, _ = explicit_attention(query, key, value, added, 0.0)
    require(equal(found, wanted), "The shares are right, but the result is not shares @ V.")


def _slope(scores: Tensor, shares: Tensor) -> float:
    """By what the scores were multiplied: the slope of log(share) over score."""
    x = scores - scores.mean(-1, keepdim=True)
    y = shares.clamp(min=1e-300).log()
    return float((x * y).sum() / x.square().sum())


def _shares(query: Tensor, key: Tensor, mask: Tensor) -> Tensor:
    added = additive_mask(Padded(mask), query.dtype)
    return explicit_attention(query, key, key, added, 0.0)[1]


if __name__ == "__main__":
    run(check, attention)
