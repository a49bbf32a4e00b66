"""Prints release, panic and the panicking task's backtrace of each dump.

python examples/backtrace.py VMCORE...
"""

import sys

import sandbox

for path in sys.argv[1:]:
    vmcore = sandbox.identify(path)
    print(f"{path}: {vmcore.release}, {vmcore.panic or 'no panic was found'}")
    with sandbox.open(path) as case:
        print(case.run("bt"))
