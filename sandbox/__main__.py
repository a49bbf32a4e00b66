"""`python -m sandbox` is `vmbox`."""

from sandbox.entry import main

main()
