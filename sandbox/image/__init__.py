"""The image of a distribution with `crash` in it, built if the engine does not have it."""

from sandbox.image.build import base_references, bootstrapper, build, ensure, ensure_base, reference, tool

__all__ = ["base_references", "bootstrapper", "build", "ensure", "ensure_base", "reference", "tool"]
