"""Losses: pure functions of tensors, which know no model.

elementary.py    every loss once, as a sum and what it is a sum over
derivatives.py   three of them with derivatives by hand, for blocks of vocabulary logits
vocabulary.py    those over a whole vocabulary, in memory that does not grow with tokens x words
heads.py         means, as the models' heads return them
soft_targets.py  sums over a task's predictions: from labels, from a teacher
triple.py        the triple loss of DistilBERT, to read beside the paper
layer_states.py  hidden states of several layers, and of whole sentences
relations.py     attention maps, relations of queries, keys and values
states.py        what is read of a model
layer_terms.py   which layers are compared, and in what
distillation.py  the weighted sum of all terms of distillation
precision.py     the one rule: at least float32

A mean is over the items that have a label. Where none has one, the loss is 0 with zero gradient,
never NaN.
"""
