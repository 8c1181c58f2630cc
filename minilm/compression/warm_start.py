"""Initial weights with which a language model learns to use context within minutes.

A new model stays on a plateau at first: before it can use any context, it has to learn how often
words occur, which of them are similar, and that neighbours matter most. Many attempts at training
small models end there, at a loss of 6 or more. All three can be given before the first step:

* the bias of the masked-LM head is the logarithm of each word's frequency;
* word embeddings are word vectors from counting (data/word_vectors.py);
* positions are sinusoids, and four heads of the first two layers attend to the tokens one to three
  places before and after, which with sinusoids is a rotation (in a layer that all depths share, two
  heads).

These weights are then trained like all others, and do not change the layout of a checkpoint.
Differs from all three papers, which start from random numbers and train a thousand times longer.

References: Vaswani et al. 2017, section 3.5 (sinusoids); Levy & Goldberg 2014 (word vectors);
You et al. 2020, Hard-Coded Gaussian Attention for Neural Machine Translation (heads that attend to
neighbours do most of the work).
"""

from __future__ import annotations

import torch
from torch import Tensor

from minilm.blocks.embeddings import sinusoidal_table
from minilm.blocks.heads import MaskedLMHead
from minilm.blocks.transformer import SelfAttention, TransformerLayer
from minilm.data.word_vectors import WordVectors
from minilm.errors import InputError
from minilm.models.pretrained import PretrainedModel

# distances, in tokens, to which the first heads of the first and the second layer attend
OFFSETS = ((-1, 1, -2, 2), (-1, 1, -3, 3))
# A layer that is used at every depth also needs heads that attend to the whole text: without them
# the order of sentences was not learned.
SHARED_OFFSETS = ((-1, 1),)
SHARPNESS = 6.0  # attention score at that distance; far away it is about 0
POSITION_SCALE = 3.0  # amplitude of the sinusoids, in units of the word vectors' numbers


@torch.no_grad()
def warm_start(model: PretrainedModel, words: WordVectors) -> None:
    """Gives a new model the initial weights described above, in place.

    Args:
        model: a BERT, DistilBERT or ALBERT, with or without a masked-LM head.
        words: word vectors of the training corpus, as wide as the model's embeddings.

    Raises:
        InputError: the vectors have another vocabulary or width.
    """
    base, config = model.base, model.config
    embeddings = base.embeddings
    table = embeddings.word.weight  # (V, E)
    if table.shape != words.vectors.shape:
        raise InputError(
            f"The word vectors are {tuple(words.vectors.shape)}, but {type(model).__name__} has "
            f"embeddings of {tuple(table.shape)}: count words with the model's tokenizer and width."
        )
    layers = list(dict.fromkeys(base.virtual_layers()))
    for layer in layers:
        assert isinstance(layer, TransformerLayer)
        for weight in layer.parameters():
            if weight.dim() == 2:
                weight.normal_(std=config.hidden_size**-0.5)
    size, scale = table.shape[1], config.initializer_range
    if embeddings.projection is not None:
        embeddings.projection.weight.normal_(std=size**-0.5)

    found = words.vectors.to(table) * scale * size**0.5
    table.copy_(torch.where(words.known.to(table.device)[:, None], found, table))
    positions = embeddings.position.weight
    positions.copy_(sinusoidal_table(*positions.shape) * POSITION_SCALE * scale)
    head = getattr(model, "masked_lm_head", None)
    if isinstance(head, MaskedLMHead):
        counts = words.counts.double() + 1
        head.bias.copy_((counts / counts.sum()).log())

    # amplitude of a sinusoid after the norm, with a word and perhaps a token type added to it
    others = 1 + (embeddings.token_type is not None)
    amplitude = POSITION_SCALE / (POSITION_SCALE**2 / 2 + others) ** 0.5
    # from the first layer's input back to the embeddings, (E, H)
    back = (
        None if embeddings.projection is None else embeddings.projection.weight.double().pinverse()
    )
    for layer, offsets in zip(layers, OFFSETS if len(layers) > 1 else SHARED_OFFSETS, strict=False):
        assert isinstance(layer, TransformerLayer)
        _look_at_neighbours(layer.attention, offsets, size, amplitude, back)


def _look_at_neighbours(
    attention: SelfAttention,
    offsets: tuple[int, ...],
    size: int,
    amplitude: float,
    back: Tensor | None,
) -> None:
    """Makes head h attend to the token `offsets[h]` places away; other heads are not changed.

    A sinusoid at position p is a point on a circle, (sin wp, cos wp). The key has the points of the
    D / 2 fastest circles, the query the same points rotated by w * offset: their product, a sum of
    cos(w (distance - offset)), is largest where distance = offset.
    """
    hidden = attention.query.weight.shape[0]
    width = hidden // attention.num_heads  # D
    circles = min(width, size) // 2
    if circles == 0:
        return
    # factor of query and key for score = sum over circles / sqrt(D)
    gain = (SHARPNESS * width**0.5 / (circles * amplitude**2)) ** 0.5
    even = torch.arange(circles) * 2  # columns of the sines; each cosine is in the next column
    rates = 10000.0 ** (-even.double() / size)
    for head, offset in zip(range(attention.num_heads), offsets, strict=False):
        query, key = torch.zeros(2, width, size, dtype=torch.float64)
        sine, cosine = (rates * offset).sin(), (rates * offset).cos()
        query[even, even], query[even, even + 1] = cosine, sine
        query[even + 1, even], query[even + 1, even + 1] = -sine, cosine
        key[even, even] = key[even + 1, even + 1] = 1.0
        rows = slice(head * width, (head + 1) * width)
        for linear, matrix in ((attention.query, query), (attention.key, key)):
            matrix = gain * matrix
            linear.weight[rows] = (matrix if back is None else matrix @ back).to(linear.weight)


head_start = warm_start  # the older name
