"""Sentence encoders: texts to vectors, and the settings that sentence-transformers stores."""
