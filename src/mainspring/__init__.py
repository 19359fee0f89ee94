"""Mainspring: train one central model at any scale, specialise it, compress it, serve it."""

from importlib.metadata import version

__version__ = version("mainspring")
