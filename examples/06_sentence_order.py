# %% [markdown]
# # 6. Sentence order: what ALBERT was asked, seen with eyes
#
# BERT learned whether a second segment follows the first or comes from another document (NSP).
# That is too easy: the topic gives it away. ALBERT is asked instead whether two segments of the
# same text stand in their order or were swapped (SOP). Here are both kinds of pairs, made from the
# help that Python brings along, and the masks ALBERT puts on them. Nothing is trained.
#
# Run it: `python examples/06_sentence_order.py` (seconds)

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
# they are others. Label 1 means "swapped" for sentence order and "random" for next sentence.


# %%
def show(pairs: SegmentPairs, label: int) -> None:
    """Prints a pair with this label, a segment a line."""
    samples = pairs.samples(seed=0, epoch=0)
    number = int(np.flatnonzero(samples.table[:, 4] == label)[200])
    found = samples.gather(np.array([number]))
    assert found.token_type_ids is not None
    print(f"label {label}")
    for segment in (0, 1):
        ids = found.ids[found.token_type_ids == segment].tolist()
        print(f"  {'AB'[segment]}  {tokenizer.decode(ids)}")


order = SegmentPairs(store, task="sentence_order", max_length=64)
following = SegmentPairs(store, task="next_sentence", max_length=64)
print("sentence order")
show(order, 0)
show(order, 1)
print("\nnext sentence")
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
# ALBERT hides runs of one to three words (6/11, 3/11 and 2/11 of them), 15 % of the tokens. Of the
# hidden tokens 80 % become [MASK], 10 % a random token, and 10 % stay as they are; all of them are
# to be predicted. Hidden tokens are in brackets, with what the model sees there.

# %%
vocabulary = Vocabulary.of(tokenizer)
samples = order.samples(seed=0, epoch=0)
chosen = np.array([400, 401])
found = samples.gather(chosen)
draw = TokenDraw(0, (1, 0), samples.keys[chosen], found.lengths)
seen, labels = mask(found.ids, found.lengths, NGramMasking(vocabulary), vocabulary, draw)


def word(token: int) -> str:
    return tokenizer.backend.id_to_token(token)


words = [
    word(token) if label < 0 else f"<{word(label)} -> {word(token)}>"
    for token, label in zip(seen.tolist(), labels.tolist(), strict=True)
]
print(" ".join(words))
assert 0.1 < (labels >= 0).mean() < 0.2
temporary.cleanup()
