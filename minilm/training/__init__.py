"""The loop that every training command runs, and what keeps it safe: snapshots, signals, checks."""
