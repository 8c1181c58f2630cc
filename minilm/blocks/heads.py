"""Modules on top of an encoder: the pooler and the masked-LM head.

The other heads are single linear layers and need no block of their own.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minilm.blocks.activations import ACTIVATIONS, Activation
from minilm.blocks.int8 import QuantizedEmbedding


class Pooler(nn.Module):
    """tanh(W h_0 + b): a vector for the whole sequence, from its first token."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden_size, hidden_size)
        self.activation: Activation = torch.tanh

    def forward(self, first: Tensor) -> Tensor:
        """(B, H) state of the first token -> (B, H)."""
        return self.activation(self.dense(first))


class MaskedLMHead(nn.Module):
    """Scores every vocabulary entry for every token: norm(activation(W h + b)) M^T + bias.

    The matrix M is the word embedding table, passed in at each call. The head holds no second
    reference to it, so there is no tie to lose when a model is copied, moved, saved or loaded.

    Args:
        hidden_size: H.
        embedding_size: E, the width of the word embeddings (H for BERT and DistilBERT).
        vocab_size: V.
        activation: a name of `ACTIVATIONS`.
        norm_eps: epsilon of the norm.

    References: Devlin et al. 2019, section 3.1.
    """

    def __init__(
        self,
        *,
        hidden_size: int,
        embedding_size: int,
        vocab_size: int,
        activation: str,
        norm_eps: float,
    ) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden_size, embedding_size)
        self.activation = ACTIVATIONS[activation]
        self.norm = nn.LayerNorm(embedding_size, eps=norm_eps)
        self.bias = nn.Parameter(self.dense.weight.new_zeros(vocab_size))

    def forward(
        self, hidden: Tensor, word_embeddings: Tensor | QuantizedEmbedding | None = None
    ) -> Tensor:
        """Score the vocabulary.

        Args:
            hidden: (..., H).
            word_embeddings: the matrix M, (V, E), or a quantised table, which is used without
                dequantising it; None = leave the product with M to the caller.

        Returns:
            Logits (..., V); without `word_embeddings`, the vectors (..., E) to multiply by M.
        """
        transformed: Tensor = self.norm(self.activation(self.dense(hidden)))  # (..., E)
        if word_embeddings is None:
            return transformed
        if isinstance(word_embeddings, QuantizedEmbedding):
            return word_embeddings.scores(transformed, self.bias)
        return F.linear(transformed, word_embeddings, self.bias)
