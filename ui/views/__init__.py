"""What the page says, as text and HTML. Knows no Gradio, and no state."""
