"""HTML pages that show what a model does with a text: its entities, its attention."""
