"""The version of jaxmia."""

__version__ = "0.1.0"
