"""Tokenizers: text to ids and back, all layouts of tokenizer files, and learning a vocabulary."""
