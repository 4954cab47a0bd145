"""Models as programs that run without this package."""

from jaxseg.export.folder import write_export

__all__ = ["write_export"]
