"""Losses: pure functions of tensors, which know no model.

Every loss is a mean over the items that have a label. Where none has one, the loss is 0 with zero
gradient, never NaN.

Every loss is computed, and returned, in at least float32; see `minilm.losses.precision`.
"""
