# %% [markdown]
# # 7. Counting: small embeddings, shared layers
#
# ALBERT makes BERT smaller in two ways. Its embedding tables are E = 128 wide instead of H = 768,
# followed by a matrix from E to H; and its twelve layers share one set of weights. Both are counted
# here by hand and by function, parameters and work. No weights are needed: nothing is built.
#
# Before you run it, write down a guess: how many parameters has ALBERT-base, of BERT-base's 109
# million? And how much of its time?
#
# Run it: `python examples/07_counting.py` (about 5 seconds)

# %%
import minilm

bert, albert = minilm.BertConfig(), minilm.AlbertConfig()
for name, config in (("BERT-base", bert), ("ALBERT-base", albert)):
    print(f"{name:<12}{minilm.cost(config).parameters:>12,} parameters")

# %% [markdown]
# ## Factorised embeddings
# V words in a table of width H are V * H numbers. A table of width E and a matrix to H are
# V * E + E * H (and H biases), far less as long as E is far below H.

# %%
V, E, H, INNER, L = 30_000, 128, 768, 3072, 12
print(f"\nword vectors, {V:,} of width {H}: {V * H:>12,}")
print(f"of width {E}, and a matrix:     {V * E + E * H + H:>12,}")
counted = minilm.cost(albert).parts
assert counted["word embeddings"].parameters == V * E
assert counted["embedding projection"].parameters == E * H + H

# %% [markdown]
# ## One layer
# Attention has four matrices H x H; the feed-forward block one from H to 4 H, the inner width, and
# one back. Each matrix has biases, and each block a norm with two vectors of width H.

# %%
attention = 4 * (H * H + H)
feed_forward = (H * INNER + INNER) + (INNER * H + H)
norms = 2 * (2 * H)
print(f"\none layer: attention {attention:,}, feed-forward {feed_forward:,}, norms {norms:,}")
assert counted["attention"].parameters == attention  # once, for all twelve
assert counted["attention"].unshared == L * attention
assert counted["feed-forward"].parameters == feed_forward

# %% [markdown]
# ## Ways of sharing
# The paper's Table 4: all layers share everything, or only attention, or only the feed-forward
# block, or nothing; and in between, groups of M neighbours share one set of weights. (Groups of 6
# mean 2 sets for 12 layers. `num_hidden_groups` in a configuration counts the sets.)
# `with_sharing` makes the configuration, and the models train, save and load like any other. A
# checkpoint holds a copy for every layer, so that transformers reads it as an ordinary ALBERT.

# %%
print(f"\n{'sharing':<20}{'E = 128':>12}{'E = 768':>14}")
for sharing in ("all", "attention", "feed_forward", "none", 6, 3):
    name = f"groups of {sharing} layers" if isinstance(sharing, int) else sharing
    row = [
        minilm.cost(minilm.AlbertConfig(embedding_size=width).with_sharing(sharing)).parameters
        for width in (128, 768)
    ]
    print(f"{name:<20}{row[0]:>12,}{row[1]:>14,}")
saved = 11 * (attention + feed_forward + norms)
apart = minilm.cost(albert.with_sharing("none"))
assert apart.parameters - minilm.cost(albert).parameters == saved

# %% [markdown]
# ## What sharing does not save
# A shared layer is stored once and computed twelve times. For a token in a sequence of 128, every
# layer of either model takes 2 * (4 H^2 + 8 H^2) operations for its matrices and 4 * 128 * H for
# its attention scores. So ALBERT-base has 11 % of BERT-base's parameters and takes its time.
# DistilBERT has half the layers: 60 % of the parameters, half of the time.

# %%
layer = 2 * (4 * H * H + 2 * H * INNER) + 4 * 128 * H
parts = minilm.cost(bert, length=128).parts
assert parts["attention"].flops + parts["feed-forward"].flops == L * layer
distilbert = minilm.DistilBertConfig()
base = minilm.cost(bert)
print(f"\n{'':<16}{'parameters':>14}{'of BERT':>9}{'MFLOP a token':>16}{'of BERT':>9}")
for name, config in (("BERT-base", bert), ("DistilBERT", distilbert), ("ALBERT-base", albert)):
    found = minilm.cost(config)
    print(
        f"{name:<16}{found.parameters:>14,}{found.parameters / base.parameters:>9.1%}"
        f"{found.flops / 1e6:>16,.1f}{found.flops / base.flops:>9.1%}"
    )

# %% [markdown]
# ## Part by part
# The function does all of this for any configuration; `minilm cost` is its command.

# %%
print("\nALBERT-base\n", minilm.cost(albert), sep="")

# %% [markdown]
# ## The layers apart again
# `unshare` gives every layer a copy of its own, which computes exactly the same and can then be
# trained or pruned apart; `share` goes back as long as the copies are equal.

# %%
small = minilm.AlbertConfig(hidden_size=64, num_attention_heads=2, intermediate_size=128)
shared = minilm.AlbertModel(small)
copies = minilm.unshare(shared)
print(f"\nshared {shared.num_parameters():,}, apart {copies.num_parameters():,}")
assert copies.num_parameters() == minilm.cost(small.with_sharing("none")).parameters
assert minilm.share(copies).num_parameters() == shared.num_parameters()

if "get_ipython" in globals():
    import matplotlib.pyplot as plt

    names = {"BERT-base": bert, "DistilBERT": distilbert, "ALBERT-base": albert}
    found = [minilm.cost(config) for config in names.values()]
    figure, axes = plt.subplots(1, 2, figsize=(9, 2), sharey=True, layout="constrained")
    axes[0].barh(list(names), [cost.parameters / 1e6 for cost in found])
    axes[0].set_xlabel("million parameters")
    axes[1].barh(list(names), [cost.flops / 1e6 for cost in found])
    axes[1].set_xlabel("million operations a token")
    plt.show()

# %% [markdown]
# ## Your turn
# - By which width E would the factorised table of 30,000 words and H = 768 cost as much as BERT's?
#   Solve V E + E H + H = V H, then check with `minilm.cost(minilm.AlbertConfig(embedding_size=E))`.
# - What changes if the text is longer? Compare `minilm.cost(bert, length=128)` with `length=512`:
#   which part grows for each token, and why only that one?
# - albert-xxlarge has H = 4096 and one layer. How many parameters has it, and how many times the
#   work of BERT-base? (`minilm cost albert-xxlarge-v2 bert-base-uncased`)
