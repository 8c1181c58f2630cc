# %% [markdown]
# # 3. Parameter sharing in ALBERT, seen in numbers
#
# ALBERT-base has 12 layers of BERT-base width and a tenth of its parameters. Two ideas do it; this
# example takes them apart and counts.
#
# Run it: `python examples/03_parameter_sharing.py` (about 5 seconds, no network, random
# weights).

# %%
import torch

import minilm


def count(config: minilm.AlbertConfig | minilm.BertConfig) -> int:
    """Parameters of the model with this configuration, without allocating them."""
    cls = minilm.AlbertModel if isinstance(config, minilm.AlbertConfig) else minilm.BertModel
    with torch.device("meta"):
        return cls(config).num_parameters()


bert, albert = minilm.BertConfig(), minilm.AlbertConfig()
print(f"BERT-base    {count(bert):>12,}")
print(f"ALBERT-base  {count(albert):>12,}")
assert (count(bert), count(albert)) == (109_482_240, 11_683_584)

# %% [markdown]
# ## Idea 1: small word vectors, projected
# BERT stores V x H numbers for its vocabulary, ALBERT V x E + E x H.

# %%
vocabulary, hidden, embedding = albert.vocab_size, albert.hidden_size, albert.embedding_size
print(f"V x H          {vocabulary * hidden:>12,}")
print(f"V x E + E x H  {vocabulary * embedding + embedding * hidden:>12,}")

# %% [markdown]
# ## Idea 2: one layer, applied twelve times
# `num_hidden_groups` says how many different sets of weights the twelve layers have. Neighbours
# share a set: with 12 sets nothing is shared, with 6 sets every two layers share one, with 1 set
# all twelve do. (`num_hidden_groups` counts the sets. In example 07, `with_sharing(6)` says it the
# other way round, by how many layers share one: 2 sets.)

# %%
sizes = {sets: count(albert.replace(num_hidden_groups=sets)) for sets in (12, 6, 4, 3, 2, 1)}
print(f"{'sets':>4}{'layers for each':>17}{'parameters':>13}")
for sets, size in sizes.items():
    print(f"{sets:>4}{12 // sets:>17}{size:>13,}")
assert sizes[12] - sizes[6] == 6 * (sizes[2] - sizes[1])  # every set costs the same

if "get_ipython" in globals():
    import matplotlib.pyplot as plt

    plt.figure(figsize=(6, 3))
    plt.plot(list(sizes), [size / 1e6 for size in sizes.values()], "o-", label="ALBERT")
    plt.axhline(count(bert) / 1e6, color="gray", label="BERT-base")
    plt.xlabel("sets of weights")
    plt.ylabel("million parameters")
    plt.legend()
    plt.show()

# %% [markdown]
# ## Is it really the same layer?
# `virtual_layers()` lists what the forward pass applies, in order. With one group there are twelve
# entries and one object.

# %%
small = albert.replace(
    vocab_size=1000, hidden_size=64, num_attention_heads=4, intermediate_size=128
)
model = minilm.AlbertModel(small)
applied = model.virtual_layers()
print(f"{len(applied)} applications of {len(set(map(id, applied)))} layer in memory")
assert len(applied) == 12
assert len(set(map(id, applied))) == 1

# %% [markdown]
# Its gradient is the sum over all twelve applications, so one optimiser step changes every one of
# them in the same way:

# %%
ids = torch.tensor([[2, 17, 256, 3]])
before = [layer.attention.query.weight.clone() for layer in applied]
model(ids).pooler_output.square().mean().backward()
torch.optim.SGD(model.parameters(), lr=0.1).step()
after = [layer.attention.query.weight for layer in applied]
assert all(torch.equal(after[0], weight) for weight in after)
assert not torch.equal(before[0], after[0])
print("after a training step: still one set of weights, and it has moved")

# %% [markdown]
# ## The depth is free
# Shared weights can be applied more or less often: the same parameters give a model of any depth.
# What is not free is the time. Every application costs as much as a layer of BERT, so ALBERT-base
# is small, but not faster than BERT-base.

# %%
deeper = minilm.AlbertModel(small.replace(num_hidden_layers=24))
deeper.load_state_dict(model.state_dict())
print(f"12 or 24 layers: {model.num_parameters():,} = {deeper.num_parameters():,} parameters")
assert deeper.num_parameters() == model.num_parameters()

# %% [markdown]
# ## Your turn
# - Which is smaller: BERT-base with E = 128 and nothing shared, or with H-wide embeddings and
#   everything shared? Guess, then count:
#   `count(albert.replace(num_hidden_groups=12))` and `count(albert.replace(embedding_size=768))`.
# - Replace the optimiser's step by `applied[0].attention.query.weight.data += 1`. How many of the
#   twelve layers have changed?
# - To write the loop over shared layers yourself, fill in `examples/exercises/3_shared_layers.py`.
