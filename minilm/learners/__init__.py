"""Models with their losses: masked LM, pairs of segments, distillation, tasks, sentence vectors."""
