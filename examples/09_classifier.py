# %% [markdown]
# # 9. A classifier in ten lines
#
# Which module of Python's library is a docstring from? The data is in every Python installation,
# the model in `weights/`. Any list of dictionaries will do in its place: rows of a CSV file, a
# `datasets.Dataset`, what your database gives.
#
# Run it: `python examples/09_classifier.py` from a clone (a minute)

# %%
import importlib
import inspect
import tempfile
from pathlib import Path

import minilm
from minilm.recipes.finetuning import split_off

records = []
for name in ("datetime", "decimal", "socket", "unittest.case"):
    module = importlib.import_module(name)
    parts = [module, *(x for _, x in inspect.getmembers(module, inspect.isclass))]
    found = {inspect.getdoc(y) or "" for x in parts for _, y in inspect.getmembers(x)}
    texts = sorted({" ".join(text.split())[:160] for text in found if len(text) > 40})
    records += [{"text": text, "label": name} for text in texts]
print(len(records), "docstrings, such as", records[0])

# %% [markdown]
# ## The ten lines
# A fifth of the records is held out. Everything else has a default: rate, epochs, batch size from
# the papers' tables, the best evaluation's weights are kept, bfloat16 where the processor has it.

# %%
train, dev = split_off(records, share=0.2, seed=0)
output = Path(tempfile.mkdtemp()) / "module-of-docstring"
result = minilm.finetune(
    "classification",
    Path(minilm.__file__).parent.parent / "weights" / "distilbert-mini",
    train,
    output,
    dev=dev,
    settings=minilm.FinetuningSettings(epochs=8, batch_size=16, learning_rate=3e-4),
)
print(f"accuracy {result.scores['accuracy']:.1%} after {result.chosen} of {result.steps} steps")

# %% [markdown]
# ## What came of it
# A directory in the hub's layout, with label names and tokenizer: minilm and transformers load it.

# %%
print(sorted(path.name for path in output.iterdir()))
classify = minilm.Predictor.from_pretrained(output)
for text in (
    "Return the local date and time, in the time zone given.",
    "Fail if the two objects are unequal.",
    "Connect to a remote address; for IP sockets it is a pair of host and port.",
):
    found = classify(text)
    print(f"{found['label']:<16}{found['confidence']:.2f}  {text}")

# %% [markdown]
# ## Where it errs
# Accuracy is one number; the classes tell more.

# %%
for label, scores in classify.evaluate(dev)["classes"].items():
    print(f"{label:<16}precision {scores['precision']:.2f}  recall {scores['recall']:.2f}")
most = max(sum(r["label"] == label for r in dev) for label in classify.task.labels) / len(dev)
print(f"always the most frequent class: {most:.1%}")
assert result.scores["accuracy"] > most + 0.15
