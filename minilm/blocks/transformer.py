"""One encoder layer: self-attention and feed-forward, each with residual and a norm after it."""

from typing import Any, Self

from torch import Tensor, nn

from minilm.blocks import inference, kernels
from minilm.blocks.dropout import Dropout
from minilm.blocks.feed_forward import FeedForward
from minilm.blocks.int8 import QuantizedLinear, project
from minilm.blocks.layout import Layout


class SelfAttention(nn.Module):
    """Multi-head attention of every token to all tokens of its sequence.

    Args:
        hidden_size: H, a multiple of `num_heads`.
        num_heads: A.
        dropout: dropout on the attention probabilities.
    """

    def __init__(self, *, hidden_size: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.query = nn.Linear(hidden_size, hidden_size)
        self.key = nn.Linear(hidden_size, hidden_size)
        self.value = nn.Linear(hidden_size, hidden_size)
        self.output = nn.Linear(hidden_size, hidden_size)

    def forward(
        self,
        hidden: Tensor,
        layout: Layout,
        first_only: bool = False,
        return_probs: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Mix information between the tokens of each sequence.

        Args:
            hidden: (..., H) in the order of `layout`.
            layout: says which tokens belong together.
            first_only: compute only the states of the first tokens.
            return_probs: also return the attention probabilities (padded layout only).

        Returns:
            The mixed states (..., H), or (B, H) of the first tokens, before residual and norm, and
            the probabilities (B, A, S, S) or None.
        """
        heads = (self.num_heads, -1)
        queries = layout.first(hidden) if first_only else hidden
        if not isinstance(self.key, QuantizedLinear):
            query, key, value = self.query(queries), self.key(hidden), self.value(hidden)
        elif first_only:  # in 8 bits, layers with the same input share its quantisation
            query, (key, value) = self.query(queries), project(hidden, self.key, self.value)
        else:
            query, key, value = project(hidden, self.query, self.key, self.value)
        context, probs = kernels.attend(
            query.unflatten(-1, heads),  # (..., A, D)
            key.unflatten(-1, heads),
            value.unflatten(-1, heads),
            layout,
            self.dropout if self.training else 0.0,
            first_only=first_only,
            return_probs=return_probs,
        )
        mixed: Tensor = self.output(context.flatten(-2))  # (..., H)
        return mixed, probs


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
        attention_dropout: dropout on the attention probabilities.
        attention_output_dropout: dropout on the output of attention, before the residual.
        feed_forward_dropout: dropout on the output of the feed-forward block, before the residual.

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
        self.attention_dropout = Dropout(attention_output_dropout)
        self.attention_norm = nn.LayerNorm(hidden_size, eps=norm_eps)
        self.feed_forward = FeedForward(
            hidden_size=hidden_size, intermediate_size=intermediate_size, activation=activation
        )
        self.feed_forward_dropout = Dropout(feed_forward_dropout)
        self.feed_forward_norm = nn.LayerNorm(hidden_size, eps=norm_eps)

    def forward(
        self,
        hidden: Tensor,
        layout: Layout,
        first_only: bool = False,
        probs: list[Tensor] | None = None,
    ) -> Tensor:
        """Apply the layer.

        Args:
            hidden: (..., H) in the order of `layout`.
            layout: says which tokens belong together.
            first_only: compute only the states of the first tokens, which attend to all others.
            probs: a list to which the attention probabilities (B, A, S, S) are appended.

        Returns:
            (..., H), or (B, H) with `first_only`.
        """
        if probs is None:
            packed = inference.run_packed(self, hidden, layout, first_only)
            if packed is not None:  # the same result, faster on a CPU
                return packed
        update, attention_probs = self.attention(hidden, layout, first_only, probs is not None)
        if probs is not None:
            probs.append(attention_probs)
        if first_only:
            hidden = layout.first(hidden)
        hidden = self.attention_norm(hidden + self.attention_dropout(update))
        update = self.feed_forward(hidden)
        normed: Tensor = self.feed_forward_norm(hidden + self.feed_forward_dropout(update))
        return normed

    def train(self, mode: bool = True) -> Self:
        """As in every module; also drops the weights that were packed for inference."""
        inference.forget(self)
        return super().train(mode)

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        """Behind `.to()` and the like; packed weights would keep the old weights in memory."""
        inference.forget(self)
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call, no-any-return]


inference.register(SelfAttention, FeedForward)
