# Runs in drgn, in a case: answers lines of standard input until end of file.
#
# --partial: also where the tasks of the dump cannot all be read. --no-debuginfo: types and names are those that the
# kernel has of itself in the dump.
#
#   COMMAND         one of drgn's crash commands, with its pipes and redirections
#   %echo WORD      prints WORD on a line of its own
#   %script JSON    runs Python; JSON has its name, code (base64), arguments, and mark, a random word. After its output
#                   comes a line of mark and JSON: {"failed": whether it ended with an error, "errors": its messages}
#
# An error of a command is one line that begins with "drgn: crash: ", as at the prompt of drgn's own `crash`.
import base64
import contextlib
import io
import json
import os
import signal
import sys
import traceback

import drgn

sys.path.insert(0, "/usr/libexec/vmbox")

try:
    from drgn.commands import CommandArgumentError, CommandExitStatusError, CommandNotFoundError
    from drgn.commands._crash import _bt as commands_bt
    from drgn.commands._crash.common import CRASH_COMMAND_NAMESPACE
    from drgn.helpers.linux.module import for_each_module
    from drgn.helpers.linux.pid import for_each_task
    from lost_rows import LostRows
    from module_tables import ModuleNames, add_modules, judged
except ImportError:
    # What a command is answered with is what a user's own image without them is told.
    sys.exit(f"drgn {drgn.__version__} has no crash commands: drgn 0.3.0 is the first that has all of them")

# What the commands start has none of our input.
commands = os.fdopen(os.dup(0), encoding="utf-8", errors="surrogateescape")
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
# Names of files and of tasks may be any bytes.
sys.stdout.reconfigure(errors="surrogateescape", line_buffering=True)
sys.stderr.reconfigure(errors="surrogateescape")
# A shell starts what it runs in the background with SIGINT ignored, and Python leaves that as it is.
signal.signal(signal.SIGINT, signal.default_int_handler)

prog.config["crash_scroll"] = False  # noqa: F821 - drgn sets it
names = {"prog": prog, "drgn": drgn}  # noqa: F821


def check(partial):
    """Ends drgn where it lacks what most of its commands need, so that another way to read the dump is tried.

    With `partial`: returns the kernel's list of tasks where its table of them cannot be read. Without debuginfo there
    is no further way: then it says what is lacking, and goes on.
    """
    try:
        prog.crashed_thread().object.comm.string_()  # noqa: F821
        try:
            for task in for_each_task(prog):  # noqa: F821
                task.comm.string_()
        except Exception:
            if not partial:
                raise
            return use_task_list()
    except Exception as error:
        if partial and without_debuginfo:
            works = "log, sym, rd, struct and whatis may work"
            print(f"without debuginfo: pages of the panicking task are not in the dump, {works}: {error}")
            return None
        sys.exit(f"drgn: crash: error: {error}")


def use_task_list():
    """Lets the commands find tasks by the kernel's list of them; None where that is not to be had either."""
    try:
        from drgn.commands._crash import _search, _sys, common
        from task_list import TaskList

        found = TaskList(prog)  # noqa: F821
    except Exception:
        return None
    for module in (common, _sys, _search):
        module.for_each_task = found.for_each
    common.find_task = found.find
    return found


def answer(command):
    try:
        CRASH_COMMAND_NAMESPACE.run(prog, command, globals=names)  # noqa: F821
    except Exception as error:
        # A pipeline may fail at both of its ends.
        for one in getattr(error, "exceptions", (error,)):
            say(one)


def say(error):
    """Prints an error as drgn's own command line does."""
    kind = "error: "
    if isinstance(error, (CommandArgumentError, CommandExitStatusError, CommandNotFoundError)):
        kind = ""
    elif isinstance(error, SyntaxError):
        kind = "syntax error: "
    # The registers that the dump lacks are no matter of types or names.
    may_be = without_debuginfo and isinstance(error, LookupError) and not str(error).startswith("registers for CPU")
    more = "; with debuginfo it may be" if may_be else ""
    print(f"drgn: crash: {kind}{error}{more}")


def say_left_out():
    """Names the modules that `mod` leaves out without a word: drgn reads more of one than its place in the list."""
    try:
        known = {module.name for module, _ in prog.loaded_modules()}  # noqa: F821
        names = [os.fsdecode(module.name.string_()) for module in for_each_module(prog)]  # noqa: F821
    except Exception as error:
        print(f"drgn: crash: error: the list of modules: {error}")
        return
    for name in names:
        if name not in known:
            print(f"drgn: crash: error: {name} is left out: pages of it are not in the dump")


def say_lost():
    """Says what the command before had to leave out."""
    if tasks is not None and tasks.listed:
        tasks.listed = False
        if tasks.lost:
            print(f"drgn: crash: error: tasks ({tasks.lost}) are left out: pages of them are not in the dump")
    for line in lost.told():
        print(f"drgn: crash: error: {line}")


def know_modules():
    """Gives drgn's stacks the unwind tables and names of modules, and marks in `bt` where there is no table."""
    for note in add_modules(prog):  # noqa: F821
        print(f"unwind tables: {note}")
    prog.register_symbol_finder("module names", ModuleNames().find, enable_index=-1)  # noqa: F821
    show = commands_bt._print_one_task  # noqa: SLF001 - drgn has no other place to add to

    def show_with_mark(trace, **options):
        trace, doubt = judged(prog, trace)  # noqa: F821
        show(trace, **options)
        if doubt:
            print(f"bt: {doubt}")

    commands_bt._print_one_task = show_with_mark  # noqa: SLF001


def run_script(request):
    errors = io.StringIO()
    failed = False
    earlier = sys.argv
    sys.argv = [request["name"], *request["arguments"]]
    try:
        with contextlib.redirect_stderr(errors):
            code = compile(base64.b64decode(request["code"]), request["name"], "exec")
            exec(code, {"__name__": "__main__", "__file__": request["name"], "prog": prog, "drgn": drgn})  # noqa: F821
    except SystemExit as end:
        failed = end.code not in {None, 0}
        if failed and not isinstance(end.code, int):
            print(end.code, file=errors)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        failed = True
        # Without the frames of this file.
        trace = error.__traceback__
        traceback.print_exception(type(error), error, trace and trace.tb_next, file=errors)
    finally:
        sys.argv = earlier
        sys.stdout.flush()
    print(request["mark"] + json.dumps({"failed": failed, "errors": errors.getvalue()}))


without_debuginfo = "--no-debuginfo" in sys.argv
if without_debuginfo:
    import no_debuginfo

    try:
        for note in no_debuginfo.open_dump(prog):  # noqa: F821
            print(f"without debuginfo: {note}")
    except no_debuginfo.Lacking as error:
        sys.exit(f"drgn: crash: error: {error}")
else:
    know_modules()
lost = LostRows()
lost.install()
tasks = check("--partial" in sys.argv)
while True:
    try:
        line = commands.readline()
        if not line:
            break
        word, _, rest = line.rstrip("\n").partition(" ")
        if word == "%echo":
            print(rest)
        elif word == "%script":
            run_script(json.loads(rest))
        else:
            answer(line.rstrip("\n"))
            if word == "mod":
                say_left_out()
            say_lost()
        sys.stdout.flush()
    except KeyboardInterrupt:
        pass
    except SystemExit:
        break
