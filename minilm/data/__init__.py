"""Text files to tokens, and tokens to batches."""
