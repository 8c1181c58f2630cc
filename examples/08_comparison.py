# %% [markdown]
# # 8. The comparison, read line by line
#
# A teacher, the student distilled from it, and an ALBERT, side by side: three of the small models
# in `weights/`, all trained by this project on the same articles of Wikipedia with the same
# vocabulary. This is `minilm compare`, with less text and without the memory measurements.
#
# Run it: `python examples/08_comparison.py` from a clone (half a minute)

# %%
from pathlib import Path

import minilm
from minilm.compare.measure import CompareSettings, compare
from minilm.compare.report import table
from minilm.compare.text_scores import help_topics

weights = Path(minilm.__file__).parent.parent / "weights"
models = [weights / name for name in ("bert-mini", "distilbert-mini", "albert-mini")]
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
# lower than on Wikipedia; what is kept of the teacher's score is what distillation is about.

# %%
for model in (teacher, student, albert):
    print(f"\n{model['name']:<16} {model['scores']['masked_accuracy']:.1%} of masked tokens right")
kept = student["relative"]["masked_accuracy"]
print(f"\nThe student keeps {kept:.0%} of its teacher's score.")
assert kept > 0.9
