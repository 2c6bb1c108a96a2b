"""State of a person's work, without widgets. Knows no Gradio."""
