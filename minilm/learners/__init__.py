"""What is trained on which loss: masked words, pairs of segments, distillation, tasks."""
