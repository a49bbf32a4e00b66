"""Prints a table (CSV) of many dumps, without an engine: kernel, time and cause of each crash.

python examples/inventory.py VMCORE... > dumps.csv
"""

import csv
import sys

import sandbox

columns = ("path", "release", "crash_time", "cause", "panic", "complete", "problem")
table = csv.DictWriter(sys.stdout, columns, restval="", extrasaction="ignore")
table.writeheader()
for path in sys.argv[1:]:
    try:
        vmcore = sandbox.identify(path)
    except sandbox.VmboxError as problem:
        table.writerow({"path": path, "problem": problem.message})
    else:
        table.writerow({name: getattr(vmcore, name, "") for name in columns})
