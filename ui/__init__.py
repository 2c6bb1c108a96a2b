"""The page: Gradio widgets, what they say, and the desks behind them. Knows no torch."""
