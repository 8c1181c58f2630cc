"""Checkpoints in the hub's layout: files, names, what fits where. Knows no model class."""
