"""Checkpoints in the hub's layout: files, names, loading. Independent of the model classes."""
