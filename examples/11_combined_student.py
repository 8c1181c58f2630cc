# %% [markdown]
# # 11. A combined student, step by step
#
# DistilBERT makes a model smaller by teaching a student with fewer layers, ALBERT by sharing layers
# and factorising the word table. A *combined* student does all of it: it has ALBERT's layout, which
# every library loads, it starts from its teacher's weights, and it learns from its teacher. This
# example builds one in three steps (start, sharing, losses) and compares it with two controls.
#
# The text is the help that comes with Python, as in example 05, so no network is needed. It runs
# in a temporary directory and leaves nothing behind.
#
# Run it: `python examples/11_combined_student.py` (one to two minutes)

# %%
import json
import pydoc_data.topics
import tempfile
from pathlib import Path

import torch

import minilm
from minilm.cli.ablate import report
from minilm.recipes.ablation import TEACHER_TERMS, Ablation, Variant
from minilm.recipes.distillation import DistillationRecipe
from minilm.recipes.pretraining import PretrainingRecipe

temporary = tempfile.TemporaryDirectory()
folder = Path(temporary.name)

topics = [
    "\n".join(line for line in topic.splitlines() if line.strip())
    for _, topic in sorted(pydoc_data.topics.topics.items())
]
(folder / "topics.txt").write_text("\n\n".join(topics), encoding="utf-8")
tokenizer = minilm.train_tokenizer([folder / "topics.txt"], folder / "vocabulary", vocab_size=2000)
store = minilm.tokenize_corpus([folder / "topics.txt"], tokenizer, folder / "store", workers=1)
small = {"corpus": folder / "store", "held_out": 8, "tokens_per_step": 1024, "min_length": 4}

# %% [markdown]
# ## A teacher
# A BERT with 6 layers that has read the text for a while.

# %%
pretraining = PretrainingRecipe(
    **small,
    layers=6,
    hidden_size=128,
    heads=4,
    positions=64,
    dropout=0.0,
    steps=80,
    evaluate_every=80,
    learning_rate=2e-3,
    warmup=0.1,
)
scores = pretraining.train(folder / "teacher").held_out
teacher = minilm.load(folder / "teacher")
print(f"teacher: {teacher.num_parameters():,} parameters")
print(f"         masked loss {scores['masked_loss']:.2f}, accuracy {scores['masked_accuracy']:.3f}")

# %% [markdown]
# ## Step 1: factorised embeddings
# The teacher's word table has V x H numbers, the student's V x E and E x H. The best table of rank
# E, in the sense of squared differences, is the truncated singular value decomposition: what it
# keeps is called energy here. A narrow table keeps the common part of the words first.

# %%
energies = {}
for width in (16, 32, 64):
    student = minilm.init_student(teacher, student="albert", embedding_size=width)
    energies[width] = student.student_report.retained_energy["words"]
    print(f"E = {width:<3}{student.num_parameters():>9,} parameters, {energies[width]:.0%} energy")
assert energies[16] < energies[32] < energies[64] < 1

# %% [markdown]
# ## Step 2: shared layers that start from the teacher's
# Two layers of their own, applied three times: 0, 1, 0, 1, 0, 1. Three ways to fill them: with
# layers of the teacher at an interval (here the first and the last), with the average of all layers
# that each stands for (the default), or at random. The report says where every part comes from.

# %%
shared = {"student": "albert", "embedding_size": 64, "inner_layers": 2}
student = minilm.init_student(teacher, student="albert", embedding_size=64, inner_group_num=2)
print(student.student_report)
print(f"{student.num_parameters() / teacher.num_parameters():.0%} of the teacher's parameters")
applied = student.base.virtual_layers()
assert len(applied) == 6
assert applied[0] is applied[2]
taught = torch.stack([teacher.base.layers[n].attention.query.weight for n in (0, 2, 4)])
assert torch.allclose(applied[0].attention.query.weight, taught.mean(0), atol=1e-6)

# %% [markdown]
# A layer that was made for one depth is now used at three, so before any training such a student
# computes something else than its teacher. How good a start is shows only after some steps.
#
# ## Step 3: losses
# The triple loss of DistilBERT compares the predictions and the last states. Shared weights are
# used at every depth, so it can help to compare at every depth, too: `hidden_cosine` compares the
# states after every application with the teacher's at the same depth.
#
# ## The comparison
# `Ablation` (`minilm ablate`) trains variants of one recipe, evaluates them on the same masked
# words of the 8 held-out topics and makes a table. The first variant is the combined student. Of
# the controls, one has the same losses but begins with random layers, and one has the same shape,
# but no teacher at all: random weights and masked words alone.

# %%
combined = DistillationRecipe(
    **small,
    **shared,
    teacher=folder / "teacher",
    hidden_cosine=3.0,
    steps=20,
    evaluate_every=20,
    learning_rate=2e-3,
    warmup=0.1,
)
alone = {**dict.fromkeys(TEACHER_TERMS, 0.0), "from_scratch": True}
ablation = Ablation(
    base=combined,
    variants=[
        Variant("combined student"),
        Variant("layers at an interval", {"start": "interval"}),
        Variant("random layers", {"start": "random"}),
        Variant("no hidden states", {"hidden_cosine": 0.0}),
        Variant("no teacher", alone),
    ],
    seeds=1,
)
result = ablation.run(folder / "ablation")
print(report(result))

# %% [markdown]
# What to expect (one run): the three starts and the variant without hidden states are within a
# point of each other, 30.5 to 31.3 % of the masked tokens, and of nearly the same loss, 4.45 to
# 4.67. After 20 steps of so small a text, with the teacher's embeddings and head in all of them,
# layers hardly matter yet. The student without a teacher is at 28.5 %, with a loss of 6.7: it has
# learned which tokens are frequent, and no more.
#
# The log of a run has every term of its loss, here of the combined student at the first step and at
# the last. `minilm plot` draws them.

# %%
log = folder / "ablation" / "combined-student" / "seed-0" / "run" / "log.jsonl"
rows = [row for row in map(json.loads, log.read_text().splitlines()) if "loss" in row]
for name in ("kl", "mlm", "cosine", "hidden_cosine"):
    print(f"{name:<14}{rows[0][name]:7.3f}  ->{rows[-1][name]:7.3f}")

if "get_ipython" in globals():
    import matplotlib.pyplot as plt

    names = [row.variant.name for row in result.variants]
    accuracies = [row.runs[0].held_out["masked_accuracy"] for row in result.variants]
    plt.figure(figsize=(6, 2.5))
    plt.barh(names, [100 * accuracy for accuracy in accuracies])
    plt.xlabel("masked tokens right (%)")
    plt.show()

loss = {row.variant.name: row.runs[0].held_out["masked_loss"] for row in result.variants}
assert loss["combined student"] < loss["no teacher"]
temporary.cleanup()

# %% [markdown]
# ## Your turn
# - These are single runs of 20 steps: set `seeds=3` (three times the time). Which differences in
#   the table are larger than the deviations beside them?
# - Set `inner_layers` to 3 and 6 (then nothing is shared). How much of the score does sharing cost,
#   and how many parameters does it save?
# - Before you change `start`: this teacher was trained with all its layers from the beginning.
#   bert-mini's layers grew by copying, and there the average of layers is a far better start than
#   layers at an interval (`examples/negative-results.md`). Why might that be?
