# %% [markdown]
# # 6. Sentence order: the question that ALBERT is asked, with samples
#
# BERT learned whether a second segment follows the first or comes from another document (NSP).
# That is too easy: the topic gives it away. ALBERT is asked instead whether two segments of the
# same text stand in their order or were swapped (SOP). Here are both kinds of pairs, made from the
# help that comes with Python, and the masks ALBERT puts on them. Nothing is trained.
#
# Run it: `python examples/06_sentence_order.py` (about 5 seconds)

# %%
import pydoc_data.topics
import tempfile
from pathlib import Path

import numpy as np

import minilm
from minilm.data.masking import mask
from minilm.data.ngram_masking import NGramMasking
from minilm.data.randomness import TokenDraw
from minilm.data.segment_pairs import SegmentPairs
from minilm.data.vocabulary import Vocabulary

temporary = tempfile.TemporaryDirectory()
folder = Path(temporary.name)
topics = [
    "\n".join(line for line in topic.splitlines() if line.strip())
    for _, topic in sorted(pydoc_data.topics.topics.items())
]
(folder / "topics.txt").write_text("\n\n".join(topics), encoding="utf-8")
tokenizer = minilm.train_tokenizer([folder / "topics.txt"], folder / "vocabulary", vocab_size=4000)
store = minilm.tokenize_corpus([folder / "topics.txt"], tokenizer, folder / "store", workers=1)

# %% [markdown]
# ## Pairs in order, swapped, and at random
# `samples(seed, epoch)` are the pairs of an epoch, the same for the same numbers; in the next epoch
# they are others. Label 1 means "swapped" for sentence order and "random" for next sentence. Much
# of Python's help is code and tables; for reading we take the pair with the most ordinary words.


# %%
def word(token: int) -> str:
    return tokenizer.backend.id_to_token(token)


def plainest(pairs: SegmentPairs, label: int) -> int:
    """The number of the pair with this label that has the largest share of ordinary words."""
    samples = pairs.samples(seed=0, epoch=0)
    shares = {}
    for number in np.flatnonzero(samples.table[:, 4] == label):
        if samples.lengths[number] > 30:
            ids = samples.gather(np.array([number])).ids.tolist()
            shares[number] = sum(word(token).isalpha() for token in ids) / len(ids)
    return int(max(shares, key=shares.__getitem__))


def show(pairs: SegmentPairs, label: int) -> None:
    """Prints the plainest pair with this label, a segment a line."""
    found = pairs.samples(seed=0, epoch=0).gather(np.array([plainest(pairs, label)]))
    assert found.token_type_ids is not None
    print(f"label {label}")
    for segment in (0, 1):
        ids = found.ids[found.token_type_ids == segment].tolist()
        print(f"  {'AB'[segment]}  {tokenizer.decode(ids)}")


order = SegmentPairs(store, task="sentence_order", max_length=64)
following = SegmentPairs(store, task="next_sentence", max_length=64)
print("sentence order: 0 = in order, 1 = swapped")
show(order, 0)
show(order, 1)
print("\nnext sentence: 1 = B is from another document")
show(following, 1)

# %% [markdown]
# ## The statistics behind them
# Half of the pairs are swapped. ALBERT's released code gives a sentence that is left alone at the
# end of a document a random partner and label 1 (`mode="google"`): some of its sentence-order
# samples are next-sentence samples in truth, and label 1 is more frequent. "pure" leaves such
# sentences out. In next-sentence pairs the same leftovers make random pairs more frequent, too.

# %%
google = SegmentPairs(store, task="sentence_order", mode="google", max_length=64)
for name, pairs in (("pure", order), ("google", google), ("next sentence", following)):
    samples = pairs.samples(seed=0, epoch=0)
    share = samples.table[:, 4].mean()
    print(f"{name:<14}{len(samples.table):>6,} pairs, label 1: {share:.3f}")
share = order.samples(seed=0, epoch=0).table[:, 4].mean()
assert abs(share - 0.5) < 0.05
again = SegmentPairs(store, task="sentence_order", max_length=64).samples(seed=0, epoch=0)
assert np.array_equal(again.table, order.samples(seed=0, epoch=0).table)
assert not np.array_equal(again.lengths, order.samples(seed=0, epoch=1).lengths)

# %% [markdown]
# ## Masks
# ALBERT hides runs of one to three words (6/11, 3/11 and 2/11 of the runs), 15 % of the tokens. Of
# the hidden tokens 80 % become [MASK], 10 % a random token, and 10 % stay as they are; all of them
# are to be predicted. Below, the text as the model sees it, a segment a line, and under it what is
# to be predicted and what stands in its place. (Masks differ from draw to draw; this one has a run
# of several words.)

# %%
vocabulary = Vocabulary.of(tokenizer)
samples = order.samples(seed=0, epoch=0)
chosen = np.array([plainest(order, 0)])
found = samples.gather(chosen)
assert found.token_type_ids is not None
draw = TokenDraw(0, (1, 3), samples.keys[chosen], found.lengths)
seen, labels = mask(found.ids, found.lengths, NGramMasking(vocabulary), vocabulary, draw)
print("what the model sees")
for segment in (0, 1):
    print("  ", " ".join(word(token) for token in seen[found.token_type_ids == segment].tolist()))
print("what it has to say")
for position in np.flatnonzero(labels >= 0).tolist():
    print(f"   position {position:>2}: {word(labels[position])!r} for {word(seen[position])!r}")
assert 0.05 < (labels >= 0).mean() < 0.3

# all pairs of the epoch together
everything = np.arange(len(samples.table))
found = samples.gather(everything)
draw = TokenDraw(0, (1, 0), samples.keys[everything], found.lengths)
seen, labels = mask(found.ids, found.lengths, NGramMasking(vocabulary), vocabulary, draw)
hidden = labels >= 0
print(f"\nof {len(labels):,} tokens {hidden.mean():.1%} are to be predicted, and of these")
masked = (seen[hidden] == tokenizer.mask_token_id).mean()
kept = (seen[hidden] == labels[hidden]).mean()
print(f"  {masked:.1%} are [MASK], {kept:.1%} stayed, {1 - masked - kept:.1%} are a random token")
assert 0.13 < hidden.mean() < 0.18
assert abs(masked - 0.8) < 0.02
temporary.cleanup()

# %% [markdown]
# ## Your turn
# - Read the swapped pair above. Which words tell you that it is swapped? A model has to find the
#   same ones. (The small ALBERTs of this repository did not; see `examples/negative-results.md`.)
# - Change `NGramMasking(vocabulary)` to `NGramMasking(vocabulary, max_ngram=1)`: what happens to
#   the runs? Is a run of three words harder to guess than three words far apart, and why?
# - To make pairs yourself, fill in `examples/exercises/5_sentence_order.py`.
