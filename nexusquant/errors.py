"""The errors a caller may want to catch. Knows nothing else of the package."""


class NexusquantError(Exception):
    """Base of every error that Nexusquant raises on purpose."""


class UnsupportedModelError(NexusquantError):
    """The model cannot work with a compressed cache; the message names the reason."""


class CacheStateError(NexusquantError):
    """A cache was used out of order, or a saved cache does not belong to this model."""


class DocumentError(NexusquantError):
    """A document could not be read; the message says why and what can be done."""


class OutOfMemoryError(NexusquantError):
    """The device had no room left; the job was dropped and its memory freed."""
