"""Exercise 3: ALBERT's two ideas, factorised embeddings and shared layers.

*Factorised embeddings.* BERT has a vector of H = 768 numbers for each of its 30,000 words: 23
million parameters, a fifth of the model. ALBERT keeps vectors of E = 128 numbers (3.8 million) and
widens them with one matrix from E to H (0.1 million). Word, token type and position vectors, all E
wide, are added; the sum is normalised; and then it is projected. Only the tokens of the text are
projected, not the whole vocabulary.

*Shared layers.* ALBERT has G groups of weights (the published models: one) and applies them L
times. With two groups and six applications the order is 0 0 0 1 1 1: neighbours share. The shared
layer is one object. Its gradient is the sum over all its applications, so a training step moves
them together.

Sharing saves memory, not time: every application costs as much as a layer of its own.

Fill in `embed`, `embedding_parameters` and `apply_layers` and run the check:
`python examples/exercises/3_shared_layers.py`

In the library: `Embeddings` in minilm/blocks/embeddings.py, `AlbertModel.run_layers` in
minilm/models/albert.py.
References: Lan et al. 2020, section 3.1.
"""

from collections.abc import Callable, Sequence

import torch
from checking import WrongAnswer, equal, explain, require, require_tensor, run
from torch import Tensor, nn


def embed(
    input_ids: Tensor,
    word: Tensor,
    token_type: Tensor,
    position: Tensor,
    norm: Callable[[Tensor], Tensor],
    projection: Callable[[Tensor], Tensor],
) -> Tensor:
    """What ALBERT's first layer sees, for texts of one segment (token type 0).

    Args:
        input_ids: (B, S) int64.
        word: (V, E), the table of word vectors.
        token_type: (2, E).
        position: (P, E), P at least S.
        norm: the layer norm, (..., E) -> (..., E).
        projection: (..., E) -> (..., H).

    Returns:
        (B, S, H).
    """
    raise NotImplementedError("Write the body of embed(): about three lines.")


def embedding_parameters(vocab_size: int, embedding_size: int, hidden_size: int) -> int:
    """How many numbers the word table (V x E) and the projection to H (with its bias) have."""
    raise NotImplementedError("Write the body of embedding_parameters(): one line.")


def apply_layers(
    hidden: Tensor, groups: Sequence[Callable[[Tensor], Tensor]], depth: int
) -> Tensor:
    """Applies G groups of weights L times, neighbours sharing.

    Args:
        hidden: (B, S, H).
        groups: G of them.
        depth: L, a multiple of G.

    Returns:
        (B, S, H).
    """
    raise NotImplementedError("Write the body of apply_layers(): about three lines.")


def check(embed, embedding_parameters, apply_layers):
    """Compares the embeddings, counts, and watches the order and the gradients of the groups."""
    torch.manual_seed(0)
    vocabulary, width, hidden, texts, length = 50, 4, 6, 2, 5
    word = torch.randn(vocabulary, width, dtype=torch.float64)
    token_type = torch.randn(2, width, dtype=torch.float64)
    position = torch.randn(9, width, dtype=torch.float64)
    matrix = torch.randn(width, hidden, dtype=torch.float64)
    scale, shift = 1 + torch.rand(2, width, dtype=torch.float64)
    projected: list[int] = []

    def norm(x: Tensor) -> Tensor:
        require(
            x.shape[-1] == width,
            "The norm acts on vectors of width H. It acts on the sum, which is E wide, before the "
            "projection.",
        )
        return nn.functional.layer_norm(x, (width,), scale, shift)

    def projection(x: Tensor) -> Tensor:
        projected.append(x.numel() // width)
        return x @ matrix

    ids = torch.randint(vocabulary, (texts, length))
    found = embed(ids, word, token_type, position, norm, projection)
    rows = sum(projected)
    if isinstance(found, Tensor) and found.shape == (texts, length, width):
        raise WrongAnswer("The projection is missing: the result is E wide, not H.")
    require_tensor("embed(...)", found, (texts, length, hidden))
    words, places = word[ids], position[:length]
    everything = words + token_type[0] + places
    mistakes = {
        "The positions are missing: the model could not tell the order of the words.": norm(
            words + token_type[0]
        ),
        "The token type is missing: add token_type[0] to every token.": norm(words + places),
        "The norm is missing.": everything,
        "The positions are added after the norm. They belong to the sum that is normalised.": norm(
            words + token_type[0]
        )
        + places,
        "Token type 1 is added. In a text of one segment all tokens are of type 0.": norm(
            words + token_type[1] + places
        ),
        "Position 1 is the first. Positions are counted from 0.": norm(
            words + token_type[0] + position[1 : length + 1]
        ),
    }
    mistakes = {message: value @ matrix for message, value in mistakes.items()}
    explain(found, norm(everything) @ matrix, mistakes, "embed(...)")
    require(
        rows == texts * length,
        f"The projection was given {rows} vectors for {texts * length} tokens. Look the words up "
        "first and project what was found, not the whole vocabulary.",
    )

    count = embedding_parameters(30_000, 128, 768)
    for wrong, message in (
        (30_000 * 768, "This is V x H: what BERT stores without factorisation."),
        (30_000 * 128, "The projection is missing: E x H numbers and a bias of H."),
        (30_000 * 128 + 128 * 768, "The bias of the projection is missing: H numbers more."),
    ):
        require(count != wrong, f"embedding_parameters: {message}")
    wanted = 30_000 * 128 + 128 * 768 + 768
    require(count == wanted, f"embedding_parameters is {count!r}, expected {wanted:,}.")

    _check_layers(apply_layers)


def _check_layers(apply_layers):
    order: list[int] = []

    class Layer(nn.Module):
        def __init__(self, number: int) -> None:
            super().__init__()
            self.number = number
            self.matrix = nn.Parameter(torch.eye(4) * (1 + number / 10))

        def forward(self, x: Tensor) -> Tensor:
            order.append(self.number)
            return x @ self.matrix + 0.1

    start = torch.randn(1, 2, 4)
    for count, depth in ((1, 6), (3, 6), (2, 6)):
        layers = [Layer(number) for number in range(count)]
        order.clear()
        found = apply_layers(start, layers, depth)
        require_tensor("apply_layers(...)", found, tuple(start.shape))
        used = " ".join(map(str, order))
        require(
            len(order) != count or count == depth,
            f"Every group is applied once. {count} group(s) are to be applied {depth} times.",
        )
        cycle = [number % count for number in range(depth)]
        require(
            order != cycle or count == 1,
            f"The groups take turns ({used}). In ALBERT neighbours share: 0 0 0 1 1 1.",
        )
        wanted = [number * count // depth for number in range(depth)]
        require(
            order == wanted,
            f"With {count} group(s) and depth {depth} the order is {used}, expected "
            f"{' '.join(map(str, wanted))}.",
        )
        expected = start
        for number in wanted:
            expected = layers[number](expected)
        require(
            equal(found, expected),
            "The result is not that of one application after the other: each reads what the one "
            "before it made.",
        )
        found.sum().backward()
        require(
            all(layer.matrix.grad is not None for layer in layers),
            "The shared layer got no gradient: copies of it were applied (copy.deepcopy). Sharing "
            "means to apply the same object again.",
        )


if __name__ == "__main__":
    run(check, embed, embedding_parameters, apply_layers)
