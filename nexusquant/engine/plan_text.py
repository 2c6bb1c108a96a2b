"""A memory plan in words: its terms, and why a text is refused.

Knows plans and numbers of tokens. Must not know devices or models.
"""

from __future__ import annotations

from nexusquant.engine.memory_plan import MemoryPlan


def as_table(plan: MemoryPlan, num_tokens: int) -> str:
    """The terms of a plan in lines that can be read, the sum last.

    Args:
        plan: The plan.
        num_tokens: Tokens of the text.
    """
    rows = [*plan.terms(num_tokens), ("Sum", plan.needed_bytes(num_tokens))]
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:<{width}}  {num_bytes / 1e9:8.3f} GB" for name, num_bytes in rows]
    head = f"{num_tokens:,} tokens, {plan.bytes_per_token:,.0f} bytes for each one more"
    return "\n".join([head, *lines])


def refusal(plan: MemoryPlan, num_tokens: int, free_bytes: int) -> str | None:
    """Say with the numbers why a text does not fit, or None if it does.

    Args:
        plan: The plan.
        num_tokens: Tokens of the text, answer included.
        free_bytes: Free before the model is loaded.
    """
    fitting = plan.tokens_that_fit(free_bytes)
    if num_tokens <= fitting:
        return None
    plan = plan.in_smallest_sizes()
    beside = plan.context_bytes + plan.weight_bytes
    needed, left = plan.needed_bytes(num_tokens) - beside, max(0, free_bytes - beside)
    return (
        f"{num_tokens:,} tokens do not fit: beside the model they take {needed / 1e9:.2f} GB while "
        f"they are read ({plan.stored_bytes(num_tokens) / 1e9:.2f} GB once they are), and "
        f"{left / 1e9:.2f} GB can be had, which is enough for {fitting:,}."
    )
