"""Metrics of predictions, each equal to the standard tool of its field; numpy only, no torch."""
