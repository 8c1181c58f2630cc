# %% [markdown]
# # 13. ALBERT from nothing, in five steps
#
# No class of minilm computes anything here. We begin with attention on numbers that can be checked
# by hand, wrap it into a layer, add embeddings, apply the one layer twelve times, and load the
# weights of `weights/albert-1x12-mini` into what came out. It then predicts a hidden word, with the
# same numbers as `minilm.AlbertForMaskedLM`. Every step runs before the next one begins.
#
# Run it: `python examples/13_albert_from_nothing.py` from a clone (5 to 10 seconds, no network)

# %%
import json
import math
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import minilm

# %% [markdown]
# ## Step 1: attention on three tokens, by hand
# Three tokens with vectors of two numbers. Here a vector is its own query, key and value. A score
# is the dot product of a query and a key over sqrt(2); a softmax over each row makes shares of it;
# the result is the mean of the values with these shares.
#
# By hand for the first token, (2, 0): its dot products with all three are 4, 0 and 2; over sqrt(2)
# that is 2.83, 0 and 1.41; their exponentials are 16.9, 1 and 4.1, in sum 22.0; so the shares are
# 0.768, 0.045 and 0.187, and the result is 0.768 (2, 0) + 0.045 (0, 2) + 0.187 (1, 1), which is
# (1.72, 0.28).


# %%
def attention(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """(..., S, D) each -> the weighted means (..., S, D), and the shares (..., S, S)."""
    scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    shares = scores.softmax(dim=-1)
    return shares @ value, shares


tokens = torch.tensor([[2.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
mixed, shares = attention(tokens, tokens, tokens)
print("step 1: shares of the first token", [round(share, 3) for share in shares[0].tolist()])
print("        its new vector           ", [round(number, 2) for number in mixed[0].tolist()])
assert torch.allclose(shares[0], torch.tensor([0.768, 0.045, 0.187]), atol=0.0005)
assert torch.allclose(mixed[0], torch.tensor([1.72, 0.28]), atol=0.005)

# %% [markdown]
# ## Step 2: a layer
# In a model, queries, keys and values come from three learned matrices, and attention runs in
# several heads at once: H = 256 numbers are cut into A = 4 heads of 64, each with shares of its
# own. After attention a feed-forward block works on each token alone, H -> 4 H -> H, with a GELU
# between. Both blocks add to their input, and a layer norm follows each sum.


# %%
class Layer(nn.Module):
    """One transformer layer, (B, S, H) -> (B, S, H)."""

    def __init__(self, hidden: int, heads: int, inner: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(hidden, hidden)
        self.key = nn.Linear(hidden, hidden)
        self.value = nn.Linear(hidden, hidden)
        self.mix = nn.Linear(hidden, hidden)
        self.attention_norm = nn.LayerNorm(hidden, eps=1e-12)
        self.wide = nn.Linear(hidden, inner)
        self.narrow = nn.Linear(inner, hidden)
        self.norm = nn.LayerNorm(hidden, eps=1e-12)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            part(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, A, S, D)
            for part in (self.query, self.key, self.value)
        )
        context, self.shares = attention(query, key, value)
        x = self.attention_norm(x + self.mix(context.transpose(1, 2).flatten(2)))
        return self.norm(x + self.narrow(gelu(self.wide(x))))


def gelu(x: Tensor) -> Tensor:
    """A soft step: x where x is large, 0 where it is very negative (ALBERT's approximation)."""
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


torch.manual_seed(0)
layer = Layer(hidden=256, heads=4, inner=1024)
x = torch.randn(1, 7, 256)
numbers = sum(parameter.numel() for parameter in layer.parameters())
print(f"\nstep 2: {tuple(x.shape)} -> {tuple(layer(x).shape)}, {numbers:,} parameters")
assert layer(x).shape == x.shape
# every token now has mean 0 and variance 1: the last thing in a layer is a norm
assert torch.allclose(layer(x).var(-1, unbiased=False), torch.ones(1, 7), atol=1e-4)

# %% [markdown]
# ## Step 3: embeddings, small and then projected
# A word becomes the sum of three vectors: which word it is, which segment it is in, and where it
# stands. In ALBERT these are E = 128 wide; one matrix widens the normalised sum to H = 256. BERT's
# table is H wide, twice as large here and six times in ALBERT-base.


# %%
class Embeddings(nn.Module):
    """(B, S) token ids -> (B, S, H)."""

    def __init__(self, vocabulary: int, width: int, hidden: int, positions: int) -> None:
        super().__init__()
        self.word = nn.Embedding(vocabulary, width)
        self.segment = nn.Embedding(2, width)
        self.position = nn.Embedding(positions, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.projection = nn.Linear(width, hidden)

    def forward(self, ids: Tensor) -> Tensor:
        places = torch.arange(ids.shape[1])
        x = self.word(ids) + self.segment.weight[0] + self.position(places)
        return self.projection(self.norm(x))


embeddings = Embeddings(vocabulary=8000, width=128, hidden=256, positions=128)
ids = torch.tensor([[2, 17, 256, 3]])
factorised = 8000 * 128 + 128 * 256
print(f"\nstep 3: {tuple(ids.shape)} -> {tuple(embeddings(ids).shape)}")
print(f"        words and matrix {factorised:,} numbers; a table of width 256 {8000 * 256:,}")
assert embeddings(ids).shape == (1, 4, 256)

# %% [markdown]
# ## Step 4: one layer, twelve times
# This is all that makes it an ALBERT: the loop applies the same object again and again. Twelve
# layers deep, one layer in memory. A head on top turns each state back into a vector of E numbers
# and compares it with every word of the table: the more alike, the more likely that word.


# %%
class Albert(nn.Module):
    """(B, S) token ids -> (B, S, V) logits."""

    def __init__(self, *, depth: int = 12) -> None:
        super().__init__()
        self.depth = depth
        self.embeddings = Embeddings(vocabulary=8000, width=128, hidden=256, positions=128)
        self.layer = Layer(hidden=256, heads=4, inner=1024)
        self.dense = nn.Linear(256, 128)
        self.norm = nn.LayerNorm(128, eps=1e-12)
        self.bias = nn.Parameter(torch.zeros(8000))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embeddings(ids)
        for _ in range(self.depth):
            x = self.layer(x)
        x = self.norm(gelu(self.dense(x)))
        return x @ self.embeddings.word.weight.T + self.bias


model = Albert().eval()
total = sum(parameter.numel() for parameter in model.parameters())
unshared = total + 11 * numbers
print(f"\nstep 4: {total:,} parameters; with twelve layers of their own {unshared:,}")
print("        logits", tuple(model(ids).shape))

# %% [markdown]
# ## Step 5: real weights
# A checkpoint is a dictionary of tensors with the names that Google's code gave them. A table says
# which of them is which of ours. (The pooler and the head for sentence order stay in the file: no
# word is predicted by them.) The published ALBERTs have the same names: for albert-base-v2 only the
# sizes above would be others.

# %%
weights = Path(minilm.__file__).parent.parent / "weights" / "albert-1x12-mini"
NAMES = {
    "embeddings.word.": "albert.embeddings.word_embeddings.",
    "embeddings.segment.": "albert.embeddings.token_type_embeddings.",
    "embeddings.position.": "albert.embeddings.position_embeddings.",
    "embeddings.norm.": "albert.embeddings.LayerNorm.",
    "embeddings.projection.": "albert.encoder.embedding_hidden_mapping_in.",
    "layer.query.": "LAYER.attention.query.",
    "layer.key.": "LAYER.attention.key.",
    "layer.value.": "LAYER.attention.value.",
    "layer.mix.": "LAYER.attention.dense.",
    "layer.attention_norm.": "LAYER.attention.LayerNorm.",
    "layer.wide.": "LAYER.ffn.",
    "layer.narrow.": "LAYER.ffn_output.",
    "layer.norm.": "LAYER.full_layer_layer_norm.",
    "dense.": "predictions.dense.",
    "norm.": "predictions.LayerNorm.",
    "bias": "predictions.bias",
}
LAYER = "albert.encoder.albert_layer_groups.0.albert_layers.0"
stored = load_file(weights / "model.safetensors")
state = {}
for name in model.state_dict():
    ours = next(start for start in NAMES if name.startswith(start))
    theirs = NAMES[ours].replace("LAYER", LAYER) + name.removeprefix(ours)
    state[name] = stored.pop(theirs).float()
model.load_state_dict(state)  # complains about every missing or misshapen tensor
print("\nstep 5: not used:", ", ".join(sorted(stored)))
config = json.loads((weights / "config.json").read_text())
assert (config["num_hidden_layers"], config["num_hidden_groups"]) == (12, 1)

# %% [markdown]
# The tokenizer cuts a sentence into the words of the vocabulary, and one of them is hidden.

# %%
tokenizer = minilm.Tokenizer.from_pretrained(weights)
text = "The film was released in the united [MASK]."
ids = tokenizer(text)["input_ids"]
with torch.no_grad():
    logits = model(ids)
place = int((ids[0] == tokenizer.mask_token_id).nonzero())
probabilities = logits[0, place].softmax(-1)
best = probabilities.topk(5)
print(f"\n{text}")
for probability, token in zip(best.values.tolist(), best.indices.tolist(), strict=True):
    print(f"{probability:6.1%}  {tokenizer.decode([token])}")

# %% [markdown]
# And the proof: the model of the library, with all its packing and its fast kernels, gives the same
# numbers for every token and every word of the vocabulary. In float64, so that rounding does not
# hide a small mistake.

# %%
reference = minilm.AlbertForMaskedLM.from_pretrained(weights, dtype="float64")
with torch.no_grad():
    difference = (reference(ids).logits - model.double()(ids)).abs().max().item()
print(f"\nlargest difference from minilm.AlbertForMaskedLM: {difference:.0e}")
assert difference < 1e-10
assert tokenizer.decode([int(best.indices[0])]) == "states"

# %% [markdown]
# ## Your turn
# Depth is a number here. With which depths do you expect "states" among the first three words: 1,
# 3, 6, 11, 12, 24? The next cell tries it; guess before you read on.

# %%
for depth in (1, 3, 6, 11, 12, 24):
    model.depth = depth
    with torch.no_grad():
        chances = model(ids)[0, place].softmax(-1)
    words = ", ".join(tokenizer.decode([token]) for token in chances.topk(3).indices.tolist())
    print(f"depth {depth:>2}: {words}")

# %% [markdown]
# Depth 12 knows it and 11 nearly as well; 6 and 24 do not. And depth 3 knows it again: these
# weights were first trained to be applied three times, then twelve (see
# `weights/albert-1x12-mini/README.md`), and have kept some of it.
#
# Now change one line and watch the difference from the library's model:
#
# - `gelu` to `torch.nn.functional.gelu`, the exact function that BERT uses. The logits change by
#   about 0.002 and the words not at all: a wrong activation is easily overlooked, a comparison of
#   numbers is not.
# - `/ math.sqrt(query.shape[-1])` to nothing. Which of the asserts above says so first?
# - `self.attention_norm(x + ...)` to `x + self.attention_norm(...)`. Is "states" still the first
#   word?
