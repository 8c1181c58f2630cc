# %% [markdown]
# # 1. A forward pass, shape by shape
#
# A sentence goes through a small BERT. We compute one attention map by hand, from the model's own
# matrices, and see what two of its heads have learned to look at. Then three sentences of different
# length go through together, first padded, then packed.
#
# Run it: `python examples/01_forward_pass.py` from a clone (about 5 seconds, no network)

# %%
import math
from pathlib import Path

import torch

import minilm

weights = Path(minilm.__file__).parent.parent / "weights" / "bert-mini"
tokenizer = minilm.Tokenizer.from_pretrained(weights)
model = minilm.load(weights).base  # without the head that predicts words
config = model.config
print(f"{config.num_hidden_layers} layers, {config.hidden_size} wide, ", end="")
print(f"{config.num_attention_heads} heads; {model.num_parameters():,} parameters")

# %% [markdown]
# ## Text to numbers
# The tokenizer cuts a text into words and pieces of words ("##" continues a word) and adds [CLS] at
# the front and [SEP] at the end. The model sees their numbers.

# %%
ids = tokenizer("The bank of the river was flooded.")["input_ids"]
words = [tokenizer.backend.id_to_token(token) for token in ids[0].tolist()]
print("\ninput_ids", tuple(ids.shape), " (B, S): one text of", len(words), "tokens")
print(" ".join(words))

# %% [markdown]
# ## Attention by hand
# Every token's state is multiplied with three matrices. The query of a token says what it looks
# for, the key what it offers, the value what it gives. The share that token i takes from token j is
# the softmax, over j, of query_i times key_j over sqrt(D). With 4 heads the 256 numbers are cut
# into 4 times 64, and each head has shares of its own.

# %%
with torch.no_grad():
    out = model(ids, output_hidden_states=True, output_attentions=True)
    states = out.hidden_states[0]  # (B, S, H): the embeddings, what the first layer reads
    first = model.layers[0].attention
    heads, size = config.num_attention_heads, config.hidden_size // config.num_attention_heads
    query = first.query(states).view(1, -1, heads, size).transpose(1, 2)  # (B, A, S, D)
    key = first.key(states).view(1, -1, heads, size).transpose(1, 2)
    scores = query @ key.transpose(-1, -2) / math.sqrt(size)  # (B, A, S, S)
    shares = scores.softmax(dim=-1)
print("\nstates ", tuple(states.shape), " (B, S, H)")
print("query  ", tuple(query.shape), "(B, A, S, D)")
print("shares ", tuple(shares.shape), "(B, A, S, S)")
assert torch.allclose(shares.sum(-1), torch.ones(1, heads, len(words)))
difference = (shares - out.attentions[0]).abs().max()
print(f"largest difference from the model's own attention map: {difference:.0e}")
assert difference < 1e-5

# %% [markdown]
# ## What do heads look at?
# For each token, the one it takes most from, in two of the model's 48 heads. (bert-mini's training
# began with a few heads that were set to look at a neighbour. It could have given that up, and has
# kept it.)


# %%
def show(layer: int, head: int) -> float:
    """Prints what every token looks at, and returns the mean share of those tokens."""
    table = out.attentions[layer][0, head]  # (S, S)
    best = table.max(dim=-1)
    for word, share, place in zip(words, best.values.tolist(), best.indices.tolist(), strict=True):
        print(f"  {word:>6} takes {share:4.0%} from {words[place]}")
    return best.values.mean().item()


print("\nlayer 0, head 0: the token before")
assert show(0, 0) > 0.9
print("layer 0, head 3: the token after")
assert show(0, 3) > 0.9

# %% [markdown]
# No layer is as sharp as the first. Later ones spread their shares over several tokens, and what a
# head is for is no longer easy to say. In a notebook three maps are drawn: a row is a token, and
# what it takes from is dark.

# %%
sharp = [table[0].max(-1).values.mean().item() for table in out.attentions]
print("\nlargest share of a token, mean of a layer:", " ".join(f"{value:.2f}" for value in sharp))

if "get_ipython" in globals():
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(12, 4), layout="constrained")
    for axis, (layer, head) in zip(axes, ((0, 0), (0, 3), (11, 0)), strict=True):
        axis.imshow(out.attentions[layer][0, head].numpy(), cmap="Blues", vmin=0, vmax=1)
        axis.set_title(f"layer {layer}, head {head}")
        axis.set_xticks(range(len(words)), words, rotation=90)
        axis.set_yticks(range(len(words)), words)
    plt.show()

# %% [markdown]
# ## Padded
# Three texts of different length make a rectangle, so the shorter ones are filled up with padding.
# The mask says what is text: 1 = attend, 0 = ignore. Padding gets no share at all.

# %%
texts = ["The bank of the river was flooded.", "It rained.", "Nobody was hurt that night."]
batch = tokenizer(texts)
with torch.no_grad():
    out = model(batch["input_ids"], batch["attention_mask"], output_attentions=True)
mask = batch["attention_mask"].bool()
print("\ninput_ids          ", tuple(batch["input_ids"].shape), " (B, S)")
print("last_hidden_state  ", tuple(out.last_hidden_state.shape), " (B, S, H)")
print(f"of {mask.numel()} positions {int((~mask).sum())} are padding")
assert not out.attentions[0][1, :, :, ~mask[1]].any()

# %% [markdown]
# ## Packed
# The same texts in one line, and their lengths. No padding exists, so no layer spends time on it.
# This is what the model does by itself whenever the mask has zeros.

# %%
line = batch["input_ids"][mask]
lengths = mask.sum(1)
with torch.no_grad():
    packed = model(line, lengths=lengths)
print("\npacked input_ids   ", tuple(line.shape), " (T,)   lengths", lengths.tolist())
print("last_hidden_state  ", tuple(packed.last_hidden_state.shape), " (T, H)")

difference = (packed.last_hidden_state - out.last_hidden_state[mask]).abs().max()
print(f"largest difference between padded and packed: {difference:.0e}")
assert difference < 1e-5

# %% [markdown]
# ## Your turn
# - Change the sentence to one that begins with "The river bank". Do the two heads still look at the
#   neighbours? Try `show(5, 0)`: what does "river" take from?
# - Leave out `/ math.sqrt(size)`. Which assert fails first, and do the shares still sum to 1?
#
# In the library the layer is in `minilm/blocks/transformer.py`, and attention, with every way of
# executing it, in `minilm/blocks/kernels.py`. To write it yourself, with a mask, fill in
# `examples/exercises/1_attention.py`.
