"""Tensors on disk that are believed only after they were checked."""
