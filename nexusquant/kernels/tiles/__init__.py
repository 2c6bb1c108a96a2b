"""Codes to digits for tensor cores: shared by the kernels that read packed pages."""
