"""Text to ids and back: reading every layout of tokenizer files, and training a vocabulary."""
