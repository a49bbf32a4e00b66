"""Readers of file formats: streams, compressions, archives, packages, ELF. All of them read untrusted files.

What is known of kernel dumps is in `dump/`, what is known of debuginfo in `debuginfo/`.
"""
