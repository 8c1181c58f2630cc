"""Losses: pure functions of tensors that do not depend on models.

elementary.py    every loss once, as a sum and the number of items in it
derivatives.py   three of them with derivatives by hand, for blocks of vocabulary logits
vocabulary.py    losses over a whole vocabulary, in memory that does not grow with tokens x words
heads.py         means, as the models' heads return them
soft_targets.py  sums over a task's predictions: from labels, from a teacher
triple.py        the triple loss of DistilBERT, to read beside the paper
layer_states.py  hidden states of several layers, and of whole sentences
relations.py     attention maps, relations of queries, keys and values
states.py        what a distillation loss reads from a model
layer_terms.py   which layers are compared, and by which terms
distillation.py  the weighted sum of all terms of distillation
precision.py     the precision of all losses: at least float32

A mean is over the items that have a label. If there are none, the loss is 0 with zero gradient,
never NaN.
"""
