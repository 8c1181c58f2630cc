"""What a model does with one text, as a page to look at: its entities, its attention."""
