# %% [markdown]
# # 5. Distillation from beginning to end, in two minutes
#
# Text, vocabulary, teacher, student: everything that DistilBERT took, small enough to watch. The
# text is the help that Python brings along (`help("LOOPING")` and 78 other topics, 465,000
# characters), so no network is needed. It runs in a temporary directory and leaves nothing behind.
#
# Run it: `python examples/05_distillation.py` (about a minute on two cores)

# %%
import json
import pydoc_data.topics
import tempfile
from dataclasses import replace
from pathlib import Path

import minilm
from minilm.recipes.distillation import DistillationRecipe
from minilm.recipes.pretraining import PretrainingRecipe
from minilm.recipes.settings import TextRecipe

temporary = tempfile.TemporaryDirectory()
folder = Path(temporary.name)

# %% [markdown]
# ## Text to tokens
# One topic is one document. A WordPiece vocabulary is learned from the text, and the text becomes a
# *token store*: numbers on disk that training maps into memory. On the command line these are
# `minilm train-tokenizer` and `minilm tokenize`.

# %%
topics = [
    "\n".join(line for line in topic.splitlines() if line.strip())
    for _, topic in sorted(pydoc_data.topics.topics.items())
]
(folder / "topics.txt").write_text("\n\n".join(topics), encoding="utf-8")
tokenizer = minilm.train_tokenizer([folder / "topics.txt"], folder / "vocabulary", vocab_size=2000)
store = minilm.tokenize_corpus([folder / "topics.txt"], tokenizer, folder / "store", workers=1)
print(f"{store.num_documents} documents, {store.num_tokens:,} tokens")

# the last 8 documents are held out: all models below are evaluated on them
small = {"corpus": folder / "store", "held_out": 8, "tokens_per_step": 2048, "min_length": 4}

# %% [markdown]
# ## A teacher
# A BERT with 4 layers learns to predict masked tokens. A *recipe* is what `minilm pretrain` runs:
# its arguments are the command's options, with the same defaults. The loss begins at 7.6 (2,000
# tokens, all equally likely); knowing how often each one occurs gets it to about 6, and what is
# below comes from reading.


# %%
def train(recipe: TextRecipe, name: str) -> dict[str, float]:
    """Trains, prints the curve of the held-out text, and returns its ends."""
    result = recipe.train(folder / name)
    log = [json.loads(line) for line in (folder / name / "run" / "log.jsonl").open()]
    curve = [row["held_out"]["masked_loss"] for row in log if "held_out" in row]
    accuracy = result.held_out["masked_accuracy"]
    shown = " ".join(f"{loss:5.2f}" for loss in curve)
    print(f"{name:<22} loss {shown}   accuracy {accuracy:.3f}")
    return {**result.held_out, "first_loss": curve[0]}


pretraining = PretrainingRecipe(
    **small,
    layers=4,
    hidden_size=128,
    heads=4,
    positions=64,
    dropout=0.0,
    steps=240,
    learning_rate=2e-3,
    warmup=0.1,
    evaluate_every=48,
)
of_teacher = train(pretraining, "teacher")

# %% [markdown]
# ## Three students
# Each has two layers and sees the same text for the same number of steps. The first is made as
# DistilBERT was: every other layer of the teacher, the triple loss (5 KL to the teacher's
# predictions, 2 cross-entropy of the masked tokens, 1 cosine between the last states), rarer tokens
# masked more often, and fixed positions. All of that is what `DistillationRecipe` and `minilm
# distill` do unless told otherwise. The second starts from the same layers but learns from the text
# alone; the third hears the teacher but starts from random weights. The paper's ablation (its Table
# 4) compares the same. On so little text the start from the teacher's layers counts most. The
# teacher's predictions count, too: rare tokens are what is masked in training, and the student that
# never hears the teacher forgets how often the common ones are right. What to expect (five
# evaluations on the held-out topics in each run; other processors and the topics of other Pythons
# give other last digits):
#
#     teacher                loss  4.22  4.08  3.98  3.90  3.84   accuracy 0.366
#     student                loss  4.31  4.43  4.33  4.31  4.26   accuracy 0.356
#     without the teacher    loss  4.75  4.64  4.80  4.61  4.60   accuracy 0.343
#     from random weights    loss  5.56  4.94  4.88  4.96  5.17   accuracy 0.256

# %%
distillation = DistillationRecipe(
    **small,
    teacher=folder / "teacher",
    steps=80,
    learning_rate=2e-3,
    warmup=0.1,
    evaluate_every=16,
)
triple = train(distillation, "student")
alone = train(replace(distillation, kl=0.0, cosine=0.0), "without the teacher")
random = train(replace(distillation, from_scratch=True), "from random weights")

student, teacher = minilm.load(folder / "student"), minilm.load(folder / "teacher")
kept = triple["masked_accuracy"] / of_teacher["masked_accuracy"]
size = student.num_parameters() / teacher.num_parameters()
print(f"The student has {size:.0%} of the teacher's parameters and keeps {kept:.0%} of its score.")
assert triple["first_loss"] < random["first_loss"] - 0.5
assert triple["masked_loss"] < random["masked_loss"] - 0.1
assert of_teacher["masked_accuracy"] > 0.25

# %% [markdown]
# ## What is on disk
# Every run leaves a checkpoint that minilm and transformers load, its log, and the snapshots from
# which the same command would go on. `minilm plot` draws the log.

# %%
for path in sorted((folder / "student").rglob("*")):
    if path.is_file():
        print(f"{path.stat().st_size:>10,}  {path.relative_to(folder)}")
temporary.cleanup()
