"""Attention of a prompt's queries over packed pages. Its specification is decode's reference."""

WORKSPACE_BYTES = 2**26
"""Of the vectors that are rebuilt at a time."""
