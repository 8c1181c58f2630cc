"""Students of large models, shared layers, deeper models, quantisation and initial weights."""
