"""The version of vmbox. A module of its own, so that nothing imports the package's face for it."""

__version__ = "0.1.0.dev0"
