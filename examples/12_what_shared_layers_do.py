# %% [markdown]
# # 12. What shared layers do
#
# ALBERT applies one layer twelve times. Does it do the same thing twelve times? Does it settle
# after a few times, so that the rest is wasted? And does a student compute what its teacher
# computes? Three measures answer that for the models in `weights/`, on one and the same text:
#
# - how far each application of a layer moves the tokens (figure 1 of ALBERT's paper),
# - whether two states hold the same information (linear CKA),
# - whether two layers look at the same tokens (correlation of their attention).
#
# Run it: `python examples/12_what_shared_layers_do.py` (about 20 seconds on one core, no
# network).
# As a command, for any models with the same tokenizer, with a picture of all that follows:
#
#     minilm plot similarity bert-mini distilbert-mini albert-1x12-mini -o layers.svg

# %%
from itertools import pairwise
from pathlib import Path

import torch

import minilm
from minilm.compare.similarity import cka_matrix, observe, similarity
from minilm.compare.text_scores import help_topics

weights = Path(minilm.__file__).parent.parent / "weights"
texts = [line for topic in help_topics() for line in topic.splitlines()]
tokenizer = minilm.Tokenizer.from_pretrained(weights / "bert-mini")

models = {
    name: minilm.load(weights / name).base
    for name in ("bert-mini", "distilbert-mini", "albert-1x12-mini")
}
albert = models["albert-1x12-mini"].config
# the same weights, applied 24 times instead of 12: with shared layers, depth is a number
models["albert-1x12-mini x 24"] = minilm.load(
    weights / "albert-1x12-mini", num_hidden_layers=24
).base
# what the measures say where nothing has been learned
torch.manual_seed(0)
models["untrained ALBERT"] = minilm.AlbertModel(albert)

seen = {name: observe(name, model, tokenizer, texts, 2048) for name, model in models.items()}
found = similarity(list(seen.values()))
print(f"{found.texts} paragraphs of Python's help, {found.tokens:,} tokens")

# %% [markdown]
# ## How far a layer moves the tokens
# Each number is the angle between a token's vector before and after one application of a layer,
# mean over all tokens. 0 degrees: the layer does nothing. 90 degrees: nothing of the vector is
# left.
#
# ALBERT's figure 1 makes two points. The curve of a model with shared weights is smoother than that
# of BERT, whose layers each do something of their own: sharing stabilises what layers do. And it
# does not go down to 0: the states never reach a point that the layer leaves alone, as in a "deep
# equilibrium model", but go on moving, also when the layer is applied more often than in training.
#
# Every other layer of bert-mini was added in the course of its training, as one that changes
# nothing (`minilm pretrain --new-layers identity`), and still turns the states less than others do.


# %%
def row(values: list[float], digits: int = 0) -> str:
    return " ".join(f"{value:4.{digits}f}" for value in values)


for name, steps in found.steps.items():
    print(f"{name:<22} {row(steps.angle[:12])}")
print(f"{'   13th to 24th':<22} {row(found.steps['albert-1x12-mini x 24'].angle[12:])}")


def unevenness(angles: list[float]) -> float:
    """Mean change from one application to the next, in degrees, without the first two."""
    changes = [abs(after - before) for before, after in pairwise(angles[2:])]
    return sum(changes) / len(changes)


bert_changes = unevenness(found.steps["bert-mini"].angle)
albert_changes = unevenness(found.steps["albert-1x12-mini"].angle)
print(f"From layer to layer the angle changes by {bert_changes:.1f} degrees in bert-mini,")
print(f"and by {albert_changes:.1f} from one application to the next in albert-1x12-mini.")
assert albert_changes < bert_changes  # smoother
assert found.steps["albert-1x12-mini x 24"].angle[-1] > 10  # and no fixed point, even after 24
assert max(found.steps["untrained ALBERT"].angle) < 15  # a fresh layer does almost nothing

# %% [markdown]
# ## The same information?
# Linear CKA compares two sets of vectors for the same tokens. It ignores rotation and scale: 1
# means that one set is a rotated, scaled copy of the other. Between neighbouring states of one
# model, it says how much an application changes. The first applications change most. The late ones
# turn the vectors by many degrees (see above), but mostly all in the same way, so that what
# distinguishes the tokens stays.

# %%
for name in ("bert-mini", "albert-1x12-mini"):
    states = seen[name].states
    own = cka_matrix(states, states)
    steps_cka = [own[layer][layer + 1] for layer in range(len(states) - 1)]
    print(f"{name:<22} from state to state   {row(steps_cka, 2)}")
    assert min(steps_cka[6:]) > steps_cka[0]

# %% [markdown]
# Between models, it says which state of the teacher a state of the student is like. Below, for
# every state of a student (the embeddings first), the number of bert-mini's most similar state, and
# their CKA. distilbert-mini was made of every other layer, and its states are like those of its
# teacher after these layers. (The twelfth layer changes so little that the teacher's last two
# states match equally well.) The untrained model shows that CKA is not 0 without any training: in
# every model, a word begins with the same vector wherever it stands.

# %%
pairs = {pair.student: pair for pair in found.pairs}
for name in ("distilbert-mini", "albert-1x12-mini", "untrained ALBERT"):
    matches = pairs[name].matches()
    print(f"{name:<22} state of bert-mini  {row([float(state) for state, _ in matches])}")
    print(f"{'':<22} CKA                 {row([cka for _, cka in matches], 2)}")

last = {name: pair.matches()[-1] for name, pair in pairs.items()}
assert last["distilbert-mini"][0] >= 11
assert last["distilbert-mini"][1] > 0.8
assert last["untrained ALBERT"][1] < 0.5
assert last["albert-1x12-mini"][1] > last["untrained ALBERT"][1] + 0.1

# %% [markdown]
# ## The same attention?
# For every layer of a student, the layer of bert-mini whose attention is most like its own, and the
# correlation of their weights. distilbert-mini began as every other layer of its teacher: layers 1,
# 3, 5, 7, 9 and 11. After training, all but one still look nearly where those do. One shared layer
# cannot look like twelve different ones: most of its applications are like a few of the teacher's
# layers. Weights that were never trained spread attention evenly, and correlate with nothing.

# %%
for name in ("distilbert-mini", "albert-1x12-mini", "untrained ALBERT"):
    columns = list(zip(*pairs[name].attention, strict=True))
    best = [max(range(12), key=column.__getitem__) for column in columns]
    values = [column[layer] for column, layer in zip(columns, best, strict=True)]
    print(f"{name:<22} layer of bert-mini  {row([1.0 + layer for layer in best])}")
    print(f"{'':<22} correlation         {row(values, 2)}")
    if name == "distilbert-mini":
        assert best == sorted(best)  # in the teacher's order
        assert sorted(values)[1] > 0.9  # all but one
    if name == "untrained ALBERT":
        assert max(values) < 0.2

# %% [markdown]
# In a notebook, the angles of the first section are drawn (`minilm plot similarity` draws all
# three measures).

# %%
if "get_ipython" in globals():
    import matplotlib.pyplot as plt

    for name, steps in found.steps.items():
        plt.plot(range(1, len(steps.angle) + 1), steps.angle, "o-", label=name)
    plt.xlabel("application of a layer")
    plt.ylabel("angle (degrees)")
    plt.ylim(0)
    plt.legend()
    plt.show()

# %% [markdown]
# ## Your turn
# - Add "albert-3x2-mini" (3 layers, each used twice) to the models. Does its curve look more like
#   BERT's or like ALBERT's?
# - Apply ALBERT's layer 100 times: `num_hidden_layers=100`. Does the angle go on falling, and what
#   would it mean if it reached 0?
# - Take another text (`texts` is a list of lines). Which of the three measures moves most?
