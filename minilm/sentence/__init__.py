"""Texts to vectors, and the files of sentence-transformers that say how."""
