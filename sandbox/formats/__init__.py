"""Readers of file formats: streams, compressions, archives, packages, ELF. All of them read untrusted files.

Code that knows kernel dumps is in `dump/`, code that knows debuginfo in `debuginfo/`.
"""
