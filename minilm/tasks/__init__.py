"""What people use the models for: classes, tags, answers, choices, assistants."""
