"""A start from which a language model uses context within minutes.

A fresh model sits on a plateau: before it can use any context it has to find out how often words
occur, which of them are alike, and that neighbours say most. Years of reports from people who train
small models end there, at a loss of 6 and more. All three can be had before the first step:

* the bias of the masked-LM head is the logarithm of each word's frequency;
* word embeddings are word vectors from counting (data/word_vectors.py);
* positions are sinusoids, and four heads of the first two layers look at the tokens one to three
  places before and after, which with sinusoids is a rotation (in a layer that all depths share, two
  heads).

All of it is trained like any other weight from then on, and nothing of it shows in a checkpoint's
layout. Differs from all three papers, which start from random numbers and train a thousand times
longer.

References: Vaswani et al. 2017, section 3.5 (sinusoids); Levy & Goldberg 2014 (word vectors);
You et al. 2020, Hard-Coded Gaussian Attention for Neural Machine Translation (heads that look at
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

# where the first heads of the first and the second layer look, in tokens
OFFSETS = ((-1, 1, -2, 2), (-1, 1, -3, 3))
# A layer that stands at every depth needs heads that see the whole text, too: without them the
# order of sentences was not learned.
SHARED_OFFSETS = ((-1, 1),)
SHARPNESS = 6.0  # attention score of the place looked at; far away it is about 0
POSITION_SCALE = 3.0  # amplitude of the sinusoids, in units of the word vectors' numbers


@torch.no_grad()
def warm_start(model: PretrainedModel, words: WordVectors) -> None:
    """Gives a fresh model the start described above, in place.

    Args:
        model: a BERT, DistilBERT or ALBERT, with or without a masked-LM head.
        words: of the corpus it will learn from; vectors as wide as its embeddings.

    Raises:
        InputError: the vectors are of another vocabulary or width.
    """
    base, config = model.base, model.config
    embeddings = base.embeddings
    table = embeddings.word.weight  # (V, E)
    if table.shape != words.vectors.shape:
        raise InputError(
            f"The word vectors are {tuple(words.vectors.shape)}, {type(model).__name__} has "
            f"embeddings of {tuple(table.shape)}: count them with the model's tokenizer and width."
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

    # what the norm makes of a sinusoid: next to it stand a word and perhaps a token type
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
    """Makes head h look `offsets[h]` tokens away; heads beyond the offsets stay as they are.

    A sinusoid at position p is a point on a circle, (sin wp, cos wp). The key shows the points of
    the D / 2 fastest circles, the query the same points turned by w * offset: the product of the
    two, a sum of cos(w (distance - offset)), is largest where distance = offset.
    """
    hidden = attention.query.weight.shape[0]
    width = hidden // attention.num_heads  # D
    circles = min(width, size) // 2
    if circles == 0:
        return
    # of score = sum over circles / sqrt(D)
    gain = (SHARPNESS * width**0.5 / (circles * amplitude**2)) ** 0.5
    even = torch.arange(circles) * 2  # columns of the sines; the cosines stand behind them
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


head_start = warm_start  # its older name
