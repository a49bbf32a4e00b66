# Runs in drgn, in a case: reads what a fault left behind. Its argument is a request in JSON, and so is its answer; both
# are described in sandbox/explain/facts.py. What cannot be read has its reason in "errors".
#
#   ask "fault"    the frame that the log's oops is of, with its registers, code, source lines and variables; all CPUs
#   ask "values"   what lies at addresses, and which members are at offsets of the variables' types
import base64
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import drgn
from drgn.helpers.common.memory import identify_address_all
from drgn.helpers.common.type import member_at_offset
from drgn.helpers.linux.cpumask import for_each_online_cpu
from drgn.helpers.linux.mm import decode_page_flags, virt_to_page
from drgn.helpers.linux.sched import cpu_curr
from drgn.helpers.linux.slab import slab_object_info

MODULES = Path("/case/debuginfo/modules")
MOST_FRAMES = 64
BEFORE = 1024  # bytes of code before the fault
TOP = 4  # functions of a CPU's stack
CALLERS = 16
MACHINERY = re.compile(r"crash_|__crash|machine_kexec|native_machine|nmi|asm_|exc_|end_repeat|default_do_nmi|relocate")

errors = {}


def noted(part):
    """Decorates a reader: what it cannot read is an entry of `errors`, and its answer is None."""

    def decorate(read):
        def reading(*arguments):
            try:
                return read(*arguments)
            except Exception as error:
                errors[part] = f"{type(error).__name__}: {error}"[:300]
                return None

        return reading

    return decorate


def load_module(wanted):
    """Gives drgn the debug file of a module: the one that was sent, or one that was fetched beside vmlinux."""
    try:
        module = prog.module(wanted["name"])  # noqa: F821 - drgn sets it
    except LookupError as error:
        errors[f"module {wanted['name']}"] = str(error)
        return
    if not module.wants_debug_file():
        return
    if wanted["content"] is not None:
        handle = os.memfd_create(wanted["name"])
        with open(handle, "wb", closefd=False) as file:
            file.write(base64.b64decode(wanted["content"]))
        module.try_file(f"/proc/self/fd/{handle}", fd=handle)
    if module.wants_debug_file() and MODULES.is_dir():
        for path in MODULES.iterdir():
            if re.sub(r"\.ko(\.debug)?$", "", path.name).replace("-", "_") == wanted["name"]:
                module.try_file(path)
    if module.wants_debug_file():
        given = "another build of it was given" if wanted["content"] is not None else "there is none"
        errors[f"module {wanted['name']}"] = f"no debug file: {given}"


def traces(request):
    """The stacks in which the frame may be."""
    threads = [prog.crashed_thread().stack_trace]  # noqa: F821
    if request["pid"]:
        threads.append(lambda: prog.stack_trace(request["pid"]))  # noqa: F821
    for read in threads:
        trace = read()
        yield trace
        yield from interrupted_traces(trace)


def interrupted_traces(trace):
    """On arm64, where frame pointers lead over an exception: the stacks from the registers that its entry has saved.

    Those are behind the frame record to which the entry's frame pointer points (arch/arm64/kernel/entry.S).
    """
    for index, frame in enumerate(trace):
        if index + 1 >= len(trace) or index >= MOST_FRAMES:
            return
        if not re.match(r"(?:el1[ht]_64_(?:sync|irq|fiq|error)|__bad_stack)$", frame.name or ""):
            continue
        try:
            offset = prog.type("struct pt_regs").member("stackframe").offset  # noqa: F821
            registers = drgn.Object(prog, "struct pt_regs", address=frame.register("x29") - offset)  # noqa: F821
            if registers.pc.value_() == trace[index + 1].pc:
                yield prog.stack_trace(registers)  # noqa: F821
        except (LookupError, ValueError, drgn.FaultError):
            continue


@noted("frame")
def find_frame(request):
    """(stack, index) of the frame that an exception or interrupt stopped where the log says; None if none is there."""
    code, at, place = bytes.fromhex(request["code"]), request["code_at"], request["place"]
    for trace in traces(request):
        for index, frame in enumerate(trace):
            if index >= MOST_FRAMES:
                break
            if frame.interrupted and request["null"] and frame.pc == 0:
                return trace, index
            if not frame.interrupted or not frame.pc >> 63:
                continue
            if place is not None:
                # A function may have several names: the log and the debugger take one each.
                names = [(one.name, frame.pc - one.address) for one in prog.symbols(frame.pc)]  # noqa: F821
                if names and tuple(place) not in names:
                    continue
                if names and not code:
                    return trace, index
            if code and prog.read(frame.pc - at, len(code)) == code:  # noqa: F821
                return trace, index
    errors["frame"] = "no frame of the stack has the address and the code that the log gives"
    return None


def same_pc(found):
    """The frames at the address of the fault: inlined ones first, their function last."""
    trace, index = found
    frames = []
    while index > 0 and trace[index - 1].pc == trace[index].pc and trace[index - 1].is_inline:
        index -= 1
    for number in range(index, min(len(trace), index + MOST_FRAMES)):
        frames.append(trace[number])
        if not trace[number].is_inline:
            break
    return frames


@noted("lines")
def source_lines(found):
    lines = [line_of(frame) for frame in same_pc(found)]
    if not any(one["file"] for one in lines):
        errors.setdefault("lines", "there is no debug information of this address")
    return [one for one in lines if one["file"]]


def line_of(frame):
    try:
        file, line, column = frame.source()
    except LookupError:
        file, line, column = "", 0, 0
    return {"function": frame.name or "", "file": file, "line": line, "column": column, "inline": frame.is_inline}


def link_of(frame):
    """The address that arm64's link register has; None for another machine."""
    registers = frame.registers()
    return registers.get("lr", registers.get("x30"))


@noted("callers")
def callers(found):
    """The frames outside of the function that faulted."""
    trace, index = found
    while index < len(trace) and trace[index].is_inline:
        index += 1
    frames = [trace[number] for number in range(index + 1, min(len(trace), index + 1 + CALLERS))]
    if trace[index].pc == 0 and (link := link_of(trace[index])):
        # arm64: what was called has made no frame, and drgn goes on with the caller of the caller.
        values = [trace[index].registers().get(f"x{number}", 0) for number in range(31)]
        values += [trace[index].sp, link - 4, 5]
        saved = b"".join(value.to_bytes(8, "little") for value in values)
        type_ = prog.type("struct pt_regs")  # noqa: F821
        frames = list(prog.stack_trace(drgn.Object.from_bytes_(prog, type_, saved.ljust(type_.size, b"\0"))))[:CALLERS]  # noqa: F821
        frames = frames[next(number for number, one in enumerate(frames) if not one.is_inline) :]
    elif trace[index].pc == 0 and frames:
        # drgn takes the caller of NULL for interrupted, and its return address for where it was.
        called = {name: frames[0].registers()[long] for name, long in (("ip", "rip"), ("sp", "rsp"), ("bp", "rbp"))}
        called["ip"] -= 1
        at_call = prog.stack_trace(drgn.Object(prog, "struct pt_regs", called))  # noqa: F821
        frames[0] = next(one for one in at_call if not one.is_inline)
    return [line_of(one) for one in frames]


def objects(found):
    for frame in same_pc(found):
        for name in frame.locals():
            try:
                yield frame, name, frame[name]
            except Exception:  # one that drgn cannot evaluate is no reason to leave out the others
                continue


def plain(type_):
    while type_.kind == drgn.TypeKind.TYPEDEF:
        type_ = type_.type
    return type_


@noted("variables")
def variables(found):
    listed = []
    for frame, name, value in objects(found):
        type_ = plain(value.type_)
        number = None
        if type_.kind in {drgn.TypeKind.POINTER, drgn.TypeKind.INT, drgn.TypeKind.BOOL, drgn.TypeKind.ENUM}:
            try:
                number = None if value.absent_ else value.value_() % (1 << 64)
            except Exception:
                number = None
        listed.append(
            {
                "function": frame.name or "",
                "name": name,
                "type": value.type_.type_name(),
                "pointer": type_.kind == drgn.TypeKind.POINTER,
                "value": number,
            }
        )
    return listed


def disassembler(machine, begin, skipped):
    argv = ["objdump", "-D", "-z", "-b", "binary", *machine]
    return argv if begin is None else [*argv, f"--adjust-vma={begin + skipped:#x}"]


@noted("instructions")
def instructions(request, found):
    """[address, text] of the instructions up to the one that faulted, and of the next; objdump's words."""
    if not request["machine"]:
        raise ValueError("there is no disassembler for this machine")
    pc = None
    if found is None:
        code, at, begin = bytes.fromhex(request["code"]), request["code_at"], None
        if not code:
            raise ValueError("neither the log nor the dump has its code")
    else:
        trace, index = found
        pc = trace[index].pc
        try:
            begin = max(trace[index].symbol().address, pc - BEFORE)
        except LookupError:
            begin = pc - request["code_at"]
        code, at = prog.read(begin, pc - begin + 32), pc - begin  # noqa: F821
    handle = os.memfd_create("code")
    try:
        # What is before it may begin inside of an instruction.
        for skipped in range(min(16, at + 1)):
            os.ftruncate(handle, 0)
            os.pwrite(handle, code[skipped:], 0)
            ran = subprocess.run(
                [*disassembler(request["machine"], begin, skipped), f"/proc/self/fd/{handle}"],
                check=False,
                capture_output=True,
                text=True,
                pass_fds=[handle],
            )
            if ran.returncode:
                said = ran.stderr.strip().partition("\n")[0]
                raise ValueError(f"this image's objdump does not disassemble it: {said[-100:]}")
            listed = []
            for line in ran.stdout.splitlines():
                parts = re.match(r"\s*([0-9a-f]+):\t((?:[0-9a-f]{2,8} )+)\s*(?:\t(.*))?$", line)
                # Of arm64 there are tabs, and remarks behind two slashes.
                text = parts[3].partition("//")[0].replace("\t", " ").strip() if parts and parts[3] else ""
                if text:
                    listed.append([int(parts[1], 16) - (begin or -skipped), text])
            if any(offset == at for offset, _ in listed):
                after = [one for one in listed if one[0] > at][:1]
                listed = [one for one in listed if one[0] <= at][-64:] + after
                return [{"offset": offset - at, "text": text} for offset, text in listed]
    finally:
        os.close(handle)
    raise ValueError("no instruction begins at the address of the fault")


@noted("cpus")
def cpus(most):
    listed = []
    for number, cpu in enumerate(for_each_online_cpu(prog)):  # noqa: F821
        if number >= most:
            errors["cpus"] = f"only the first {most} are read"
            break
        task = cpu_curr(prog, cpu)  # noqa: F821
        try:
            trace = prog.stack_trace(task)  # noqa: F821
            # Of a program there are addresses only.
            kernels = [frame.name for frame in trace if frame.name and not frame.name.startswith("0x")]
            names = [name for name in kernels if not MACHINERY.match(name)][:TOP]
        except Exception:
            names = []
        listed.append({"cpu": cpu, "pid": task.pid.value_(), "command": text_of(task.comm), "functions": names})
    return listed


def text_of(characters):
    return characters.string_().decode(errors="backslashreplace")


def fault(request):
    for module in request["modules"]:
        load_module(module)
    found = find_frame(request) if request["code"] or request["place"] or request["null"] else None
    answer = {"cpus": cpus(request["cpus"]) or [], "instructions": [], "lines": [], "variables": []}
    no_code = found is not None and found[0][found[1]].pc == 0
    if request["code"] or (found is not None and not no_code):
        answer["instructions"] = instructions(request, found) or []
    if found is not None:
        trace, index = found
        # Segments and control registers that drgn has no name for are not among them.
        answer["pc"] = trace[index].pc
        answer["registers"] = trace[index].registers()
        answer["lines"] = [] if no_code else source_lines(found) or []
        answer["callers"] = callers(found) or []
        answer["variables"] = variables(found) or []
    return answer


def stores_users(cache):
    """Whether SLUB keeps who allocated and freed each object (slub_debug=U)."""
    try:
        flag = 1 << prog.constant("_SLAB_STORE_USER").value_()  # noqa: F821
    except LookupError:
        # include/linux/slab.h of kernels that have it as a macro, which is not in the debug information.
        flag = 0x10000
    return cache.flags.value_() & flag


def tracks(slab):
    """Who allocated and who freed an object last: get_track() and get_info_end() of mm/slub.c."""
    cache, type_ = slab.slab_cache, prog.type("struct track")  # noqa: F821
    if not stores_users(cache):
        return
    # The pointer to the next free object is behind the object where that has poison.
    inuse = cache.inuse.value_()
    end = slab.address + inuse + (8 if cache.offset.value_() >= inuse else 0)
    for number, event in enumerate(("allocated", "freed")):
        track = drgn.Object(prog, type_, address=end + number * type_.size)  # noqa: F821
        caller = track.addr.value_()
        if not caller:
            continue
        try:
            # The call, and not the instruction behind it.
            where = prog.source_location(caller - 1)[0]  # noqa: F821
            file, line = where.filename, where.line
        except LookupError:
            file, line = "", 0
        yield {
            "event": event,
            "address": track.address_,
            "pid": track.pid.value_(),
            "cpu": track.cpu.value_(),
            "caller": symbol_at(caller),
            "file": file,
            "line": line,
        }


def symbol_at(address):
    # A module's init and exit functions have second names, which are the same in all modules.
    symbols = [one for one in prog.symbols(address) if one.name not in {"init_module", "cleanup_module"}]  # noqa: F821
    if not symbols:
        return f"{address:#x}"
    return f"{symbols[0].name}+{address - symbols[0].address:#x}"


def what_lies_at(address):
    answer = {
        "address": address,
        "names": [],
        "cache": None,
        "object": None,
        "allocated": None,
        "page": None,
        "tracks": [],
    }
    try:
        answer["names"] = [str(one) for one in identify_address_all(prog, address)]  # noqa: F821
    except Exception as error:
        errors[f"{address:x}"] = f"{type(error).__name__}: {error}"[:300]
    try:
        slab = slab_object_info(prog, address)  # noqa: F821
        if slab is not None:
            answer["cache"] = text_of(slab.slab_cache.name)
            answer["object"] = slab.address
            answer["allocated"] = slab.allocated
            answer["tracks"] = list(tracks(slab))
    except Exception as error:
        errors[f"{address:x}"] = f"{type(error).__name__}: {error}"[:300]
    if not answer["names"] and not answer["cache"]:
        # Flags of slab pages have other meanings than their names say.
        answer["page"] = page_flags(address)
    return answer


def page_flags(address):
    """Flags of the page of an address in the direct map of x86; None for another address."""
    try:
        start = prog["page_offset_base"].value_()  # noqa: F821
        if not start <= address < start + (prog["max_pfn"].value_() << 12):  # noqa: F821
            return None
        return decode_page_flags(virt_to_page(prog, address)) or "no flags"  # noqa: F821
    except (LookupError, drgn.FaultError):
        return None


def values(request):
    found = find_frame(request)
    typed = [] if found is None else list(objects(found))
    members = []
    for index, offset in request["members"]:
        try:
            type_ = plain(typed[index][2].type_).type
            members.append({"type": type_.type_name(), "member": member_at_offset(type_, offset)})
        except Exception as error:
            members.append({"type": "", "member": "", "error": f"{type(error).__name__}: {error}"[:300]})
    words = []
    for address in request["words"]:
        try:
            words.append(prog.read_u64(address))  # noqa: F821
        except Exception:
            words.append(None)
    return {"objects": [what_lies_at(one) for one in request["addresses"]], "members": members, "words": words}


asked = json.loads(sys.argv[1])
print(json.dumps({**(fault(asked) if asked["ask"] == "fault" else values(asked)), "errors": errors}))
