"""Losses: pure functions of tensors, which know no model.

elementary.py    every loss once, as a sum and what it is a sum over
derivatives.py   three of them with derivatives by hand, for blocks of vocabulary logits
vocabulary.py    those over a whole vocabulary, in memory that does not grow with tokens x words
heads.py         means, as the models' heads return them
soft_targets.py  sums over a task's predictions: from labels, from a teacher
distillation.py  the triple loss of DistilBERT
precision.py     the one rule: at least float32

A mean is over the items that have a label. Where none has one, the loss is 0 with zero gradient,
never NaN.
"""
