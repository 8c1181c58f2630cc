"""The parameters, operations and memory of a model, counted without building it."""
