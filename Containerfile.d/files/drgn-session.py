# Runs in drgn, in a case: reads Python from standard input, one statement or expression a line, until end of file.
#
# The value of an expression is printed as drgn's own prompt prints it. An exception is printed as one line that begins
# with "drgn: error: "; its traceback is left out.
import builtins
import signal
import sys

import drgn
import drgn.helpers.common
import drgn.helpers.linux

names = {"__name__": "__main__", "__builtins__": builtins, "prog": prog, "drgn": drgn}  # noqa: F821 - drgn sets it
for module in (drgn, drgn.helpers.common, drgn.helpers.linux):
    names.update({name: getattr(module, name) for name in getattr(module, "__all__", dir(module)) if name[0] != "_"})


def show(value):
    if value is not None:
        print(value if isinstance(value, (drgn.Object, drgn.StackTrace, drgn.Type)) else repr(value))


sys.displayhook = show
# A shell starts what it runs in the background with SIGINT ignored, and Python leaves that as it is.
signal.signal(signal.SIGINT, signal.default_int_handler)
while True:
    try:
        line = sys.stdin.readline()
        if not line:
            break
        exec(compile(line, "<command>", "single"), names)
    except KeyboardInterrupt:
        pass
    except SystemExit:
        break
    except BaseException as error:
        print(f"drgn: error: {type(error).__name__}: {error}")
    sys.stdout.flush()
