# %% [markdown]
# # 8. The comparison, read line by line
#
# A teacher, the student distilled from it, and an ALBERT, side by side: three of the small models
# in `weights/`, all trained by this project on the same articles of Wikipedia with the same
# vocabulary. This is `minilm compare`, with less text and without the memory measurements.
#
# Run it: `python examples/08_comparison.py` from a clone (half a minute to a minute)

# %%
from pathlib import Path

import minilm
from minilm.compare.measure import CompareSettings, compare
from minilm.compare.report import table
from minilm.compare.text_scores import help_topics

weights = Path(minilm.__file__).parent.parent / "weights"
models = [weights / name for name in ("bert-mini", "distilbert-mini", "albert-1x12-mini")]
settings = CompareSettings(texts=128, rounds=3, max_tokens=10_000, memory=False)
result = compare(models, help_topics(), settings, source="Python's help topics")
print(table(result))
teacher, student, albert = result["models"]

# %% [markdown]
# ## Parameters
# The student keeps its teacher's embeddings and every other layer. Embeddings do not shrink with
# the number of layers, so half the layers are more than half of the parameters: 60 % in the paper,
# where the vocabulary is larger. ALBERT stores one layer, and embeddings half as wide.

# %%
for model in (teacher, student, albert):
    shares = {part: size / model["parameters"] for part, size in model["components"].items()}
    print(f"\n{model['name']:<16}", "  ".join(f"{k} {v:.0%}" for k, v in shares.items()))
assert student["components"]["layers"] * 2 == teacher["components"]["layers"]
assert albert["components"]["layers"] * 12 == teacher["components"]["layers"]

# %% [markdown]
# ## Work and time
# Work is counted, time is measured. The student does half the work of its teacher. ALBERT does all
# of it: its one layer runs twelve times. Sharing decides how much is stored, never how much is
# computed.

# %%
for model in (student, albert):
    relative = model["relative"]
    print(
        f"\n{model['name']:<16} work {relative['flops_per_token']:.0%} of the teacher's, "
        f"speed {relative['bulk_speed']:.2f} x in bulk, {relative['one_text_speed']:.2f} x alone"
    )
assert student["relative"]["flops_per_token"] < 0.55
assert albert["relative"]["flops_per_token"] > 0.95

# %% [markdown]
# ## Words
# One token in seven is replaced by [MASK], and a model scores when the right one of 8,000 is its
# first choice. The help topics of Python are not what the models were trained on, so the scores are
# lower than on Wikipedia. What is kept of the teacher's score is what distillation is about. A
# share of n tokens has a standard error: differences below twice that are no differences.

# %%
print()
for model in (teacher, student, albert):
    share, count = (model["scores"][name] for name in ("masked_accuracy", "masked_tokens"))
    error = (share * (1 - share) / count) ** 0.5
    print(f"{model['name']:<16} {share:.1%} ± {error:.1%} of {count:,} masked tokens right")
kept = student["relative"]["masked_accuracy"]
print(f"\nThe student keeps {kept:.0%} of its teacher's score.")
assert kept > 0.9

# %% [markdown]
# ## Order
# ALBERT also answers whether two segments are in their order. With two answers, guessing is right
# in 50 % of the cases, and the standard error of so few pairs is large: read the line below as "not
# distinguishable from guessing" unless it is three errors away from 50 %.

# %%
share, count = albert["scores"]["sentence_order_accuracy"], albert["scores"]["pairs"]
error = 0.5 / count**0.5
print(f"\nalbert-1x12-mini: {share:.1%} of {count} pairs right; guessing gives 50 % ± {error:.1%}")
print(f"that is {abs(share - 0.5) / error:.1f} standard errors from guessing")
assert count > 20

if "get_ipython" in globals():
    import matplotlib.pyplot as plt

    for model in (teacher, student, albert):
        plt.scatter(model["parameters"] / 1e6, 100 * model["scores"]["masked_accuracy"])
        plt.annotate(
            model["name"], (model["parameters"] / 1e6, 100 * model["scores"]["masked_accuracy"])
        )
    plt.xlabel("million parameters")
    plt.ylabel("masked tokens right (%)")
    plt.xlim(0, 14)
    plt.show()

# %% [markdown]
# ## Your turn
# - Add "albert-3x2-mini" to `models`. Where would you put it in a picture of parameters and score,
#   before you look?
# - Raise `max_tokens` to 40_000 and `texts` to 512 (two to five minutes). Which numbers move by
#   more than their error, and does the order of pairs get nearer to 50 % or further away?
# - Speeds are measured while your computer also does other things. Run the example again while a
#   video plays: what changes more, the speeds or the ratios?
