"""Small models from large ones: students, shared layers, growth and starts."""
