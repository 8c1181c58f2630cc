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
from pathlib import Path

import torch

import minilm
from minilm import CorpusSettings, TrainingSettings
from minilm.recipes.runs import Recipe, distillation, masked_lm

temporary = tempfile.TemporaryDirectory()
folder = Path(temporary.name)
torch.manual_seed(0)

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
corpus = CorpusSettings(
    store=folder / "store", held_out=8, max_length=64, tokens_per_step=2048, min_length=4
)

# %% [markdown]
# ## A teacher
# A BERT with 4 layers learns to predict masked tokens (`minilm pretrain`). The loss begins at 7.6
# (2,000 tokens, all equally likely); knowing how often each one occurs gets it to about 6, and what
# is below comes from reading.


# %%
def train(recipe: Recipe, name: str, steps: int) -> dict[str, float]:
    """Trains, prints the curve of the held-out text, and returns its ends."""
    settings = TrainingSettings(
        steps=steps, learning_rate=2e-3, warmup=steps // 10, evaluate_every=steps // 5
    )
    result = recipe.train(settings, folder / name)
    log = [json.loads(line) for line in (folder / name / "run" / "log.jsonl").open()]
    curve = [row["held_out"]["masked_loss"] for row in log if "held_out" in row]
    accuracy = result.held_out["masked_accuracy"]
    shown = " ".join(f"{loss:5.2f}" for loss in curve)
    print(f"{name:<22} loss {shown}   accuracy {accuracy:.3f}")
    return {**result.held_out, "first_loss": curve[0]}


small = {"hidden_size": 128, "num_attention_heads": 4, "intermediate_size": 512}
config = minilm.BertConfig(
    **small,
    vocab_size=tokenizer.vocab_size,
    num_hidden_layers=4,
    max_position_embeddings=64,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
)
teacher = minilm.BertForMaskedLM(config)
of_teacher = train(masked_lm(teacher, corpus), "teacher", steps=240)

# %% [markdown]
# ## Three students
# Each has two layers and sees the same text for the same number of steps. The first is made as
# DistilBERT was: every other layer of the teacher, and the triple loss (5 KL to the teacher's
# predictions, 2 cross-entropy of the masked tokens, 1 cosine between the last states). The second
# starts from the same layers but learns from the text alone; the third hears the teacher but starts
# from random weights. The paper's ablation (its Table 4) compares the same. On so little text the
# first two are close, and the start from the teacher's layers is what counts. What to expect (five
# evaluations on the held-out topics in each run; other processors and the topics of other Pythons
# give other last digits):
#
#     teacher                loss  4.24  4.11  4.04  3.88  3.85   accuracy 0.363
#     student                loss  3.87  3.85  3.84  3.82  3.81   accuracy 0.368
#     without the teacher    loss  3.91  3.91  3.89  3.83  3.83   accuracy 0.367
#     from random weights    loss  5.21  4.33  4.14  4.09  4.07   accuracy 0.311

# %%
STEPS = 80
start = minilm.init_student(teacher)
triple = train(distillation(start, teacher, minilm.DistillationLoss(), corpus), "student", STEPS)
alone = train(masked_lm(minilm.init_student(teacher), corpus), "without the teacher", STEPS)
fresh = minilm.DistilBertForMaskedLM(start.config)
random = train(
    distillation(fresh, teacher, minilm.DistillationLoss(), corpus), "from random weights", STEPS
)

kept = triple["masked_accuracy"] / of_teacher["masked_accuracy"]
size = start.num_parameters() / teacher.num_parameters()
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
again = minilm.load(folder / "student")
assert torch.equal(again.get_input_embeddings().weight, start.get_input_embeddings().weight)
temporary.cleanup()
