"""What is trained on what: models, losses and corpora put together for the engine."""
