"""Widgets of our own. Know Gradio; nothing of what they are used for."""
