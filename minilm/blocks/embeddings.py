"""Input embeddings: word + token type + position, norm, dropout and, for ALBERT, a projection."""

import torch
from torch import Tensor, nn

from minilm.blocks.dropout import Dropout
from minilm.blocks.int8 import QuantizedEmbedding


class Embeddings(nn.Module):
    """Turns token ids into the input of the first layer.

    BERT adds three tables; DistilBERT has no token types; ALBERT keeps its tables E wide and
    widens the sum to H with one matrix, so that the vocabulary costs V x E + E x H numbers instead
    of V x H.

    Args:
        vocab_size: V.
        embedding_size: E.
        max_positions: rows of the position table.
        token_types: rows of the token-type table; 0 = no such table.
        padding_id: the row of the word table that look-ups give no gradient; None = no such row.
        norm_eps: epsilon of the norm.
        dropout: dropout after the norm.
        projection_size: H, to project the result from E to H; None = no projection.

    References: Devlin et al. 2019, figure 2; Lan et al. 2020, section 3.1.
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        embedding_size: int,
        max_positions: int,
        token_types: int,
        padding_id: int | None,
        norm_eps: float,
        dropout: float,
        projection_size: int | None = None,
    ) -> None:
        super().__init__()
        self.embedding_size = embedding_size
        self.word = nn.Embedding(vocab_size, embedding_size, padding_idx=padding_id)
        self.position = nn.Embedding(max_positions, embedding_size)
        self.token_type = nn.Embedding(token_types, embedding_size) if token_types else None
        self.norm = nn.LayerNorm(embedding_size, eps=norm_eps)
        self.dropout = Dropout(dropout)
        self.projection = (
            None if projection_size is None else nn.Linear(embedding_size, projection_size)
        )

    @property
    def word_matrix(self) -> Tensor | QuantizedEmbedding:
        """The word table, (V, E), which a masked-LM head also uses as its output matrix."""
        word: nn.Module = self.word
        return word if isinstance(word, QuantizedEmbedding) else self.word.weight

    def forward(
        self,
        input_ids: Tensor | None,
        position_ids: Tensor,
        token_type_ids: Tensor,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        """Embed tokens.

        Args:
            input_ids: (...) int64 token ids.
            position_ids: int64, broadcastable to (...).
            token_type_ids: int64, broadcastable to (...); not read without a token-type table.
            inputs_embeds: (..., E) word vectors in place of input_ids.

        Returns:
            (..., E), or (..., H) with a projection.
        """
        x: Tensor = self.word(input_ids) if inputs_embeds is None else inputs_embeds  # (..., E)
        if self.token_type is not None:
            x = x + self.token_type(token_type_ids)
        x = self.norm(x + self.position(position_ids))
        x = self.dropout(x)
        return x if self.projection is None else self.projection(x)


def sinusoidal_table(positions: int, size: int) -> Tensor:
    """Fixed position vectors: sin(p / 10000^(2i / size)) at even columns 2i, cos at odd 2i + 1.

    Returns:
        (positions, size) float64.

    References: Vaswani et al. 2017, section 3.5.
    """
    column = torch.arange(size)
    rate = 10000.0 ** (-2.0 * (column // 2).double() / size)  # (size,)
    angle = torch.arange(positions).double()[:, None] * rate  # (positions, size)
    return torch.where(column % 2 == 0, angle.sin(), angle.cos())
