"""The labels by which vmbox finds its containers and images.

These names never change: containers and images of older versions carry them.
"""

from __future__ import annotations

from typing import Final

RUN: Final = "vmbox.run"
"""On every container of `Engine.run`: the process that started it."""

CASE: Final = "vmbox.case"
"""On every case container: the case's id."""
DUMP: Final = "vmbox.dump"
"""The dump's path. This label and the next one are for people who list their containers."""
RELEASE: Final = "vmbox.release"
USER: Final = "vmbox.user"
"""Number of the user who opened the case."""
DIRECTORY: Final = "vmbox.directory"
"""The case's runtime directory."""
HOST: Final = "vmbox.host"
"""Name of the host that opened the case. Only that host can find out whether the case is still in use."""

IMAGE: Final = "vmbox.image"
"""On every image that vmbox makes: the profile's name, `KERNEL_IMAGE`, or another kind of image."""
KERNEL_IMAGE: Final = "kernel"
"""Value of `IMAGE` on self-contained images, which also have the labels below."""
PROFILE: Final = "vmbox.profile"
SESSION: Final = "vmbox.session"
"""Version of the session script in it; images of early versions do not say it."""
KERNEL_RELEASE: Final = "vmbox.kernel.release"
KERNEL_VERSION: Final = "vmbox.kernel.version"
KERNEL_BUILD_ID: Final = "vmbox.kernel.build-id"
KERNEL_BANNER: Final = "vmbox.kernel.banner"
KERNEL_VENDOR: Final = "vmbox.kernel.vendor"
KERNEL_ARCH: Final = "vmbox.kernel.arch"
DEBUGINFO_ORIGIN: Final = "vmbox.debuginfo.origin"
DEBUGINFO_VERIFIED: Final = "vmbox.debuginfo.verified"
"""`Debuginfo.verification_detail`"""
DEBUGINFO_CHECK: Final = "vmbox.debuginfo.check"
"""`Debuginfo.verification`"""
