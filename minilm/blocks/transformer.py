"""One encoder layer: attention and feed-forward, each with residual and a norm after it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from minilm.blocks.attention import SelfAttention
from minilm.blocks.feed_forward import FeedForward

if TYPE_CHECKING:
    from minilm.blocks.layout import Layout


class TransformerLayer(nn.Module):
    """The post-norm layer that BERT, DistilBERT and ALBERT share.

        x = norm(x + dropout(attention(x)))
        x = norm(x + dropout(feed_forward(x)))

    The three models differ only in where dropout acts; see the model files.

    Args:
        hidden_size: H.
        num_heads: A.
        intermediate_size: I.
        activation: a name of `ACTIVATIONS`.
        norm_eps: epsilon of both norms.
        attention_dropout: dropout on the attention maps.
        attention_output_dropout: dropout on what attention adds to the residual.
        feed_forward_dropout: dropout on what the feed-forward block adds to the residual.

    References: Devlin et al. 2019; Vaswani et al. 2017, section 3.
    """

    def __init__(
        self,
        *,
        hidden_size: int,
        num_heads: int,
        intermediate_size: int,
        activation: str,
        norm_eps: float,
        attention_dropout: float,
        attention_output_dropout: float,
        feed_forward_dropout: float,
    ) -> None:
        super().__init__()
        self.attention = SelfAttention(
            hidden_size=hidden_size, num_heads=num_heads, dropout=attention_dropout
        )
        self.attention_dropout = nn.Dropout(attention_output_dropout)
        self.attention_norm = nn.LayerNorm(hidden_size, eps=norm_eps)
        self.feed_forward = FeedForward(
            hidden_size=hidden_size, intermediate_size=intermediate_size, activation=activation
        )
        self.feed_forward_dropout = nn.Dropout(feed_forward_dropout)
        self.feed_forward_norm = nn.LayerNorm(hidden_size, eps=norm_eps)

    def forward(
        self, hidden: Tensor, layout: Layout, return_maps: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """(..., H) -> (..., H), and the attention maps (B, A, S, S) if asked for."""
        mixed, maps = self.attention(hidden, layout, return_maps)
        hidden = self.attention_norm(hidden + self.attention_dropout(mixed))
        widened: Tensor = self.feed_forward(hidden)
        hidden = self.feed_forward_norm(hidden + self.feed_forward_dropout(widened))
        return hidden, maps
