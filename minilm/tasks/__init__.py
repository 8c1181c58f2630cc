"""The tasks that models are fine-tuned for: classes, tags, answers, choices, assistants."""
