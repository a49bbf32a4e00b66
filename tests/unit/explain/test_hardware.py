"""Errors of the hardware in a log, and the panics that they end in. The forms are the kernel's, the values made up."""

from __future__ import annotations

import pytest
from test_fault import ALONE, said

from sandbox.explain.fault import explain
from sandbox.explain.model import Fault

TASK = "CPU: 2 PID: 41 Comm: worker Tainted: G   M               6.1.0-22-amd64 #1  Debian 6.1.94-1"
IDLE = "idle_fn+0x85/0x140"
AMD = "MC17_STATUS[Over|CE|MiscV|-|AddrV|-|-|SyndV|CECC|-|-|-]: 0xdc2040000000011b"
CHECKS = (
    "mce: [Hardware Error]: CPU 2: Machine Check Exception: 5 Bank 4: be00000000800400",
    "mce: [Hardware Error]: RIP !INEXACT! 10:<ffffffff8154a4a5> {idle_fn+0x85/0x140}",
    "mce: [Hardware Error]: TSC 35e71c43b4a9 ADDR 3fff81594000 MISC 7fff ",
    "mce: [Hardware Error]: CPU 3: Machine Check Exception: 4 Bank 5: be00000000800401",
    "mce: [Hardware Error]: TSC 35e71c43b4b9 MISC 7fff ",
    "mce: [Hardware Error]: Machine check: Processor context corrupt",
)
FATAL = "Kernel panic - not syncing: Fatal machine check"
TRACE = (
    TASK,
    "Call Trace:",
    " <#MC>",
    " panic+0x118/0x2f5",
    " mce_panic.cold+0x1c/0x1c",
    " do_machine_check+0x6d1/0x9a0",
    " exc_machine_check+0x72/0x90",
    " asm_exc_machine_check+0x1a/0x40",
)
SERROR = (
    "SError Interrupt on CPU5, code 0x00000000bf000002 -- SError",
    "CPU: 5 PID: 42 Comm: dd Tainted: G           O      6.1.0-22-arm64 #1  Debian 6.1.94-1",
    "pstate: 60000005 (nZCv daif -PAN -UAO -TCO -DIT -SSBS BTYPE=--)",
    "pc : drv_read+0x28/0x60 [drv]",
    "lr : drv_config+0x38/0xd0",
    "Kernel panic - not syncing: Asynchronous SError Interrupt",
    "CPU: 5 PID: 42 Comm: dd Tainted: G           O      6.1.0-22-arm64 #1  Debian 6.1.94-1",
    "Call trace:",
    " dump_backtrace+0xe4/0x13c",
    " panic+0x184/0x374",
    " arm64_serror_panic+0x74/0x80",
    " do_serror+0x30/0x70",
    " el1h_64_error_handler+0x34/0x50",
    " el1h_64_error+0x78/0x7c",
    " drv_read+0x28/0x60 [drv]",
    " drv_config+0x38/0xd0",
)


def explained(*lines: str, arch: str = "x86_64") -> Fault:
    log = [f"[    5.{number:06}] {line}" for number, line in enumerate(lines)]
    panic = next(line for line in lines if line.startswith("Kernel panic"))
    found = explain(log, arch=arch, readings=ALONE, panic=panic, debugger=None)
    assert found is not None
    assert found.sentences[0].topic == "hardware", "errors of the hardware come first"
    return found


def test_each_machine_check_has_its_own_values_and_the_last_ended_the_kernel() -> None:
    fault = explained(*CHECKS, FATAL, *TRACE, f"RIP: 0010:{IDLE}", " </#MC>", " cpuidle_fn+0x89/0x420")
    lost = "not corrected, the state of the processor may be lost"
    assert said(fault, "hardware").splitlines()[1:] == [
        f"CPU 2 had a machine check, by bank 4: {lost}, at address 0x3fff81594000, near {IDLE} (error code 0x0400).",
        f"CPU 3 had a machine check, by bank 5: {lost} (error code 0x0401); it is the one that the kernel panicked of.",
        "The kernel's reason not to go on: Processor context corrupt.",
    ]
    assert said(fault, "where") == (
        "worker (PID 41) panicked, on CPU 2, in mce_panic.cold < do_machine_check; that interrupted idle_fn < "
        "cpuidle_fn."
    )


def test_a_program_that_a_machine_check_interrupted_is_named_as_one() -> None:
    fault = explained(
        "mce: CPUs not responding to MCE broadcast (may include false positives): 3,7",
        "Kernel panic - not syncing: Timeout: Not all CPUs entered broadcast exception handler",
        *TRACE,
        "RIP: 0033:0x7f1234567890",
    )
    assert "CPUs that did not answer to a machine check: 3,7." in said(fault, "hardware")
    assert said(fault, "where").endswith("in mce_panic.cold < do_machine_check; that interrupted a program.")


def test_a_corrected_error_is_called_so_and_ended_nothing() -> None:
    fault = explained(
        "mce: [Hardware Error]: CPU 1: Machine Check: 0 Bank 7: 8c00004000010090",
        "mce: [Hardware Error]: TSC 0 ADDR 3fff8159 MISC 7fff ",
        "Kernel panic - not syncing: sysrq triggered crash",
    )
    assert said(fault, "hardware").splitlines()[1] == (
        "CPU 1 had a machine check, by bank 7: corrected, at address 0x3fff8159 (error code 0x0090)."
    )


@pytest.mark.parametrize(
    ("line", "bank", "code"),
    [
        ("EDAC sbridge MC0: CPU 0: Machine Check Event: 0 Bank 5: cc00014000010091", 5, "0x0091"),
        (f"[Hardware Error]: CPU:0 (17:31:0) {AMD}", 17, "0x011b"),
    ],
)
def test_the_words_of_edac_and_of_amd_are_read(line: str, bank: int, code: str) -> None:
    fault = explained(line, "Kernel panic - not syncing: x")
    assert f"CPU 0 had a machine check, by bank {bank}: corrected, more errors were lost (error code {code})." in said(
        fault, "hardware"
    )


def test_many_machine_checks_are_counted() -> None:
    lines = [f"mce: [Hardware Error]: CPU {cpu}: Machine Check: 0 Bank 7: 8c00004000010090" for cpu in range(20)]
    text = said(explained(*lines, "Kernel panic - not syncing: x"), "hardware")
    assert "The log has 20 different machine checks; these are the last 4." in text
    assert "CPU 19 had" in text
    assert "CPU 15 had" not in text


def test_what_the_firmware_described_is_told_and_what_was_interrupted() -> None:
    fault = explained(
        "{1}[Hardware Error]: Hardware error from APEI Generic Hardware Error Source: 4",
        "{1}[Hardware Error]: event severity: fatal",
        "{1}[Hardware Error]:  Error 0, type: fatal",
        "{1}[Hardware Error]:   section_type: PCIe error",
        "{1}[Hardware Error]:   device_id: 0000:80:03.0",
        "Kernel panic - not syncing: Fatal hardware error!",
        TASK,
        "Call Trace:",
        " <NMI>",
        " panic+0x101/0x2d7",
        " __ghes_panic.part.0+0x6a/0x6a",
        " exc_nmi+0x104/0x140",
        " end_repeat_nmi+0x16/0x67",
        "RIP: 0010:spin_fn+0x62/0x1d0",
        " </NMI>",
        " lock_fn+0x1c/0x20",
    )
    assert (
        "an error of severity fatal: section_type PCIe error, device_id 0000:80:03.0."
        in said(fault, "hardware").splitlines()[1]
    )
    assert said(fault, "where").endswith("in __ghes_panic.part.0; that interrupted spin_fn < lock_fn.")
    assert said(fault, "what").endswith(": Kernel panic - not syncing: Fatal hardware error.")


def test_an_serror_names_its_syndrome_and_does_not_accuse_the_function() -> None:
    fault = explained(*SERROR, arch="aarch64")
    assert said(fault, "hardware").splitlines()[1] == (
        "CPU 5 had an SError, an error of memory, of a bus or of a device (ESR 0xbf000002, of which only the manual of "
        "the processor knows the meaning). The CPU was at drv_read+0x28/0x60 [drv], which need not be the cause: such "
        "an error comes late."
    )
    assert said(fault, "where") == (
        "dd (PID 42) panicked, on CPU 5, in arm64_serror_panic < do_serror; that interrupted drv_read < drv_config."
    )
    assert fault.function is None


@pytest.mark.parametrize(("code", "words"), [("be000011", "uncontainable"), ("be000411", "unrecoverable")])
def test_the_severity_of_an_serror_is_read_of_an_architected_syndrome(code: str, words: str) -> None:
    fault = explained(SERROR[0].replace("bf000002", code), *SERROR[1:], arch="aarch64")
    assert f"(ESR 0x{code}, {words})" in said(fault, "hardware")


def test_a_synchronous_external_abort_is_an_error_of_the_hardware_with_its_access() -> None:
    fault = explained(
        "Internal error: synchronous external abort: 0000000096000410 [#1] SMP",
        TASK,
        "pstate: 60000005 (nZCv daif -PAN -UAO -TCO -DIT -SSBS BTYPE=--)",
        "pc : drv_read+0x28/0x60 [drv]",
        "Kernel panic - not syncing: synchronous external abort: Fatal exception",
        arch="aarch64",
    )
    assert (fault.function, fault.access, fault.address) == ("drv_read", "read", None)
    assert said(fault, "what").startswith(
        "The processor got an error of memory, of a bus or of a device when it was to read something: "
    )


def test_nmis_without_a_source_and_errors_of_the_bus_are_errors_of_the_hardware() -> None:
    fault = explained(
        "NMI: PCI system error (SERR) for reason a1 on CPU 0.",
        "Uhhuh. NMI received for unknown reason 2d on CPU 6.",
        "Kernel panic - not syncing: NMI: Not continuing",
    )
    assert "The hardware reported an error: NMI: PCI system error (SERR)" in said(fault, "hardware")
    assert "CPU 6 had an NMI of which the kernel did not find the source (reason 0x2d)" in said(fault, "hardware")
