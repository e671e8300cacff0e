"""The installed version, from the package's own metadata."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("mobius-seg")
except PackageNotFoundError:  # the source folder on the path, not installed
    __version__ = "0.0.0+source"
