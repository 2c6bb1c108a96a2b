"""Attention of a prompt's queries over packed pages. Its specification is decode's reference."""
