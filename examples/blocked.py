"""Groups the tasks that wait uninterruptibly by where in the kernel they wait: the usual question of a hung machine.

python examples/blocked.py VMCORE
"""

import re
import sys
from collections import defaultdict

import sandbox

with sandbox.open(sys.argv[1]) as case:
    listing = case.run("foreach UN bt", timeout=60).text

waiting: dict[tuple[str, ...], list[str]] = defaultdict(list)
for block in re.split(r"\n(?=PID: )", listing):
    head = re.match(r'PID: (\d+) .*COMMAND: "(.*)"', block)
    if head:
        functions = re.findall(r"^ *#\d+ \[\w+\] (\w+) at", block, re.MULTILINE)
        waiting[tuple(functions[:6])].append(f"{head[2]} ({head[1]})")

for stack, tasks in sorted(waiting.items(), key=lambda group: -len(group[1])):
    print(f"{len(tasks)} waiting: {', '.join(tasks)}")
    for function in stack:
        print(f"    {function}")
if not waiting:
    print("no task is waiting uninterruptibly")
