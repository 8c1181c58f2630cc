"""What a model costs, counted without building it."""
