"""Oopses as people post them, in the forms of many distributions, machines and years: written for these tests.

Each is right, or silent where the log does not say.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from test_fault import ALONE, FIXTURES, said

from sandbox.case.dumps import witness
from sandbox.dump import identify
from sandbox.explain.fault import explain
from sandbox.report import signature

POSTED = FIXTURES / "posted"
# name: (architecture, release, cause), (function, module, access, address), (a part of what, of where).
KNOWN: dict[str, tuple[tuple[str | None, ...], tuple[str | None, ...], tuple[str, ...]]] = {
    "proxmox-syslog": (
        ("x86_64", "6.11.0-2-pve", "page-fault"),
        ("zfs_uio_fill", "zfs", "write", "0xffffb5c4821f7000"),
        ("which is not mapped", "called by zfs_write < vfs_write."),
    ),
    "unraid-syslog": (
        ("x86_64", "6.1.64-Unraid", "general-protection"),
        ("fuse_lookup_name", None, None, "0x1000a0b0c0d0e0f"),
        ("it is not canonical", "called by fuse_lookup < __lookup_slow."),
    ),
    "truenas-console": (
        ("x86_64", "6.6.29-production+truenas", "null-pointer"),
        ("nfsd4_share_get", "nfsd", "read", "0xb8"),
        ("A NULL pointer was followed", "called by nfsd4_open."),
    ),
    "android-pstore": (
        ("aarch64", "5.10.149-android13-4-g1122334455aa", "null-pointer"),
        ("drm_commit_tail", "msm_drm", "read", "0xf0"),
        ("A NULL pointer was followed", "called by drm_atomic_ioctl."),
    ),
    "openwrt-mips": (
        (None, "5.10.161", "page-fault"),
        ("ath_tx_start", "ath9k", None, "0x18"),
        ("A NULL pointer was followed", "called by ath9k_tx."),
    ),
    "chromeos-console-ramoops": (
        ("x86_64", "5.15.133-20574-g9aa8b7c6d5e4", "page-fault"),
        (None, None, "execute", "0xffff9d3f0badf00d"),
        ("mapped, but not as code", "was to run code at 0xffff9d3f0badf00d, where the kernel knows no function."),
    ),
    "arm32-bug": (
        (None, "5.15.71-ti", "bug"),
        ("onfi_read_page", "onfi_example", None, None),
        ("BUG() at drivers/mtd/example/onfi.c:311.", "called by nand_read_oob."),
    ),
    "arm32-alignment": (
        (None, "6.1.46-sunxi", "other"),
        ("ip_decode", None, None, "0xc4d1e6f3"),
        ("which is not aligned for this access.", "In ip_decode+0x2c."),
    ),
    "riscv-kernel-access": (
        ("riscv64", "6.6.36", "page-fault"),
        ("vboard_read", "vboard", "read", "0x3fa0b1c2d0"),
        ("tried to read address 0x3fa0b1c2d0", "called by ksys_read."),
    ),
    "s390-addressing": (
        ("s390x", "6.4.0-150600.23.25-default", "page-fault"),
        ("zexample_drop", "zexample", None, None),
        ("Unable to handle kernel pointer dereference", "called by __do_sys_delete_module."),
    ),
    "ppc64-bug": (
        ("ppc64le", "4.18.0-513.el8.ppc64le", "bug"),
        ("tree_insert", "examplefs", None, None),
        ("BUG() at fs/example/tree.c:77.", "called by fs_link."),
    ),
    "kcsan": (
        (None, "6.5.0-syzkaller", "kcsan"),
        (None, None, None, None),
        ("checker of the kernel's own reported: BUG: KCSAN: data-race in ring_pop / ring_push.", ""),
    ),
    "kfence": (
        (None, "6.1.55-v8+", "kfence"),
        # What is printed as the address is a hash.
        ("pkt_len", "pktdrv", "read", None),
        ("BUG: KFENCE: use-after-free read in pkt_len", "In pkt_len+0x14 of module pktdrv."),
    ),
    "rcu-stall-3.10": (
        (None, None, None),
        (None, None, None, None),
        ("a CPU did not get on: INFO: rcu_sched self-detected stall on CPU { 6}", ""),
    ),
    "rcu-stall-expedited": (
        ("x86_64", "6.6.15-amd64", None),
        ("io_serial_in", None, None, None),
        ("a CPU did not get on: rcu: INFO: rcu_preempt detected expedited stalls", "called by wait_for_xmitr."),
    ),
    "soft-lockup-old": (
        ("x86_64", "2.6.32-754.el6.x86_64", "soft-lockup"),
        ("kcs_event", "ipmi_example", None, None),
        ("a CPU did not get on: BUG: soft lockup - CPU#3 stuck for 67s!", "The task was events/3 (PID 37)"),
    ),
    "oops-2.6": (
        ("x86_64", "2.6.32-696.el6.x86_64", "null-pointer"),
        ("rport_del", "fc_example", "write", "0x28"),
        ("A NULL pointer was followed", "called by rport_timeout < worker_thread."),
    ),
    "el7-nx": (
        ("x86_64", "3.10.0-1160.71.1.el7.x86_64", "page-fault"),
        (None, None, "execute", "0xffff8807f3a1c040"),
        ("mapped, but not as code", "was to run code at 0xffff8807f3a1c040, where the kernel knows no function."),
    ),
    "i386": (
        ("i686", "4.9.0-19-686-pae", "null-pointer"),
        ("rt_probe", "rt_example", "read", "0x44"),
        ("A NULL pointer was followed", "In rt_probe+0x2e of module rt_example."),
    ),
    "i386-new": (
        ("i686", "6.12.9-686", "null-pointer"),
        ("snd_reset", "snd_old", "write", "0x2c"),
        ("A NULL pointer was followed", "called by snd_probe."),
    ),
    "rust-panic": (
        ("x86_64", "6.14.0-rc2+", "bug"),
        ("rust_helper_BUG", None, None, None),
        ("panicked at drivers/android/example.rs:88:14: attempt to subtract with overflow.", "called by rust_begin_"),
    ),
    "user-access-smap": (
        ("x86_64", "5.14.0-427.13.1.el9_4.x86_64", "page-fault"),
        ("toy_ioctl", "toy", "read", "0x5581c0dec0de"),
        ("which is of user space: the kernel may do so in few places only (SMAP).", "called by __x64_sys_ioctl."),
    ),
    "arm64-sync-abort-user": (
        ("aarch64", "6.1.0-rpi7-rpi-v8", "page-fault"),
        ("toy_write", "toy", "write", "0xffff91c0d010"),
        ("which is of user space: the kernel may do so in few places only (PAN).", "called by vfs_write."),
    ),
    "arm64-bug": (
        ("aarch64", "6.12.10-orangepi", "bug"),
        ("merge_segments", None, None, None),
        ("BUG() at block/example-merge.c:904.", "called by blk_mq_dispatch_rq_list."),
    ),
    "arm64-tagged-kasan": (
        (None, "5.15.94-android14", "kasan"),
        ("q_next", "qdrv", "read", "0xf4ff000004a1c100"),
        ("BUG: KASAN: invalid-access in q_next", "called by process_one_work."),
    ),
    "hard-lockup": (
        ("x86_64", "4.18.0-477.27.1.el8_8.x86_64", "hard-lockup"),
        ("native_queued_spin_lock_slowpath", None, None, None),
        ("a CPU did not get on", "called by _raw_spin_lock_irqsave < mlx_poll."),
    ),
    "ocr-screenshot": (
        ("x86_64", "6.5.0-14-generic", "init-killed"),
        ("amd_mux", "amd_example", "read", "0x10"),
        ("A NULL pointer was followed", "called by amd_probe."),
    ),
    "no-root": (
        (None, "6.8.0-31-generic", "no-root"),
        (None, None, None, None),
        ("VFS: Unable to mount root fs on unknown-block(0,0).", "in mount_root_generic < mount_root."),
    ),
    "external-abort": (
        ("aarch64", "6.3.0-asahi-11-1-edge-ARCH", "hardware-error"),
        ("dcp_readl", "apple_example", "read", None),
        ("an error of memory, of a bus or of a device", "called by dcp_poll."),
    ),
    "stack-segment": (
        ("x86_64", "4.19.0-25-amd64", "other"),
        ("anon_walk", None, None, None),
        ("that is made of rsp or rbp", "called by rmap_walk_anon."),
    ),
    "loongarch": (
        (None, "6.12.0-loong64", "page-fault"),
        ("lnode_init", "lnode", "read", "0x8"),
        ("A NULL pointer was followed", "called by do_one_initcall."),
    ),
    "mips-unaligned": (
        (None, "4.14.180", "oops"),
        ("wx_rx_frame", "wxdrv", None, "0x86c0f1e7"),
        ("which is not aligned for this access.", "called by wx_poll < net_rx_action."),
    ),
    "arm64-bad-mode": (
        ("aarch64", "4.4.0", "oops"),
        (None, None, None, None),
        # The link register has the caller; the trace, by frame pointers, has only that one's.
        ("Internal error: Oops - bad mode", "called by toy_clock < toy_tick < tick_sched_timer."),
    ),
    "arm64-nx": (
        ("aarch64", "6.5.0-14-generic", "page-fault"),
        (None, None, "execute", "0xffffbd2fe97a3ba0"),
        ("which is mapped, but not as code.", "called by do_one_initcall < do_init_module < load_module."),
    ),
    "arm64-abort-syslogd": (
        ("aarch64", "4.4.167-toy", "hardware-error"),
        ("toy_scr_read", None, None, "0xffffff80096c61b0"),
        (
            "got an error of memory, of a bus or of a device: Unhandled fault: sync",
            "called by toy_link < toy_eh_reset.",
        ),
    ),
    "arm64-serror-vpanic": (
        (None, "6.19.0-toy", "serror"),
        (None, None, None, None),
        # Not the function behind panic(), which the kernel prints in its place.
        ("Asynchronous SError Interrupt.", "in the function in front of add_taint < arm64_serror_panic < "),
    ),
    "ppc64-bad-area": (
        ("ppc64le", "4.15.0-33-generic", "page-fault"),
        ("toy_stop", None, None, "0x430"),
        ("A NULL pointer was followed", "called by toy_dispatch < toy_loop < kthread"),
    ),
    "ppc64-null-call": (
        ("ppc64le", "4.15.0-33-generic", "page-fault"),
        (None, None, "execute", "0x0"),
        ("the kernel tried to run code at address 0x0.", "called by toy_run < toy_main < kthread."),
    ),
    "xen-pv-3.2": (
        ("x86_64", "3.2.7-3.pvops.x86_64", "init-killed"),
        ("toy_context", None, None, None),
        ("linux-3.2.7/arch/x86/xen/toy.c:322.", "The task was swapper/0 (PID 1), on CPU 0."),
    ),
    "i386-2.6.9": (
        (None, None, "page-fault"),
        ("toy_add", None, None, "0xf899b670"),
        ("which the processor refused.", "The task was modprobe (PID 8227), on CPU 0."),
    ),
    "riscv-broken-line": (
        ("riscv64", "6.6.0-toy", "null-pointer"),
        ("toy_raw_lock", None, None, "0x4"),
        ("A NULL pointer was followed", "called by toy_lock < toy_map_lock < do_toy_page"),
    ),
    "phone-parentheses": (
        ("aarch64", "4.14.186+", "page-fault"),
        ("toy_unlink", None, "write", "0xdead000000000108"),
        ("which is not mapped.", "called by toy_free < toy_ioctl."),
    ),
    "phone-columns": (
        ("aarch64", "5.4.147-qgki", "null-pointer"),
        ("toy_cam_req", None, "read", "0x18"),
        ("A NULL pointer was followed", "called by toy_cam_ioctl < __arm64_sys_ioctl."),
    ),
    "sparc": (
        (None, "6.1.0-9-sparc64-smp", "null-pointer"),
        ("toy_probe", "toysbus", None, None),
        ("Unable to handle kernel NULL pointer dereference", "called by really_probe < driver_probe_device."),
    ),
    "parisc": (
        (None, "6.1.12-parisc64", "oops"),
        ("toy_xfer", None, None, "0x18"),
        ("A NULL pointer was followed", "called by toy_submit < toy_loop."),
    ),
    "no-names": (
        ("x86_64", "5.6.16-default", "general-protection"),
        (None, None, None, "0x8030000000000000"),
        ("it is not canonical", "called by code that has no name < nf_hook_slow < ip_local_deliver."),
    ),
    "stack-guard-4.14": (
        ("x86_64", "4.14.0-1", "stack-overflow"),
        ("toy_deep", "toydeep", None, "0xffffc90000b5bff8"),
        ("A kernel stack overflowed", "called by toy_deep, 2 times."),
    ),
    "init-segfault": (
        ("x86_64", "6.1.0-18-amd64", "init-killed"),
        (None, None, None, None),
        ("Process 1 was ended by signal 11 (SIGSEGV).", "that interrupted a program."),
    ),
    "hung-task-owner": (
        (None, "6.16.9", "hung-task"),
        (None, None, None, None),
        ("toywriter:410 is blocked on a mutex likely owned by task toyowner:399.", ""),
    ),
    "rcu-stall-elsewhere": (
        ("x86_64", "4.14.1-toy", "rcu-stall"),
        ("toy_loop", "toyrt", None, None),
        ("detected stalls on CPUs/tasks", "The task was toyrt (PID 2011), on CPU 3."),
    ),
    "symbolized": (
        ("x86_64", "6.16.0-rc5-syzkaller", "page-fault"),
        ("toy_walk", None, "read", "0xfffffbfff1234567"),
        ("which is not mapped.", "called by toy_open < vfs_open < do_syscall_64"),
    ),
}
SURVIVED = ("hung-task-log-only", "lockdep", "scheduling-while-atomic", "bad-page")


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_a_posted_log_is_explained_rightly_or_not_at_all(name: str) -> None:
    facts, place, (what, where) = KNOWN[name]
    path = POSTED / f"{name}.txt"
    vmcore = identify(path)
    assert (vmcore.arch, vmcore.release, vmcore.cause) == facts
    log = witness(path, vmcore, unpacked=path.parent).kernel
    fault = explain(log, arch=vmcore.arch, readings=ALONE, taint=vmcore.taint, panic=vmcore.panic, debugger=None)
    assert fault is not None
    assert (fault.function, fault.module, fault.access, fault.address) == place
    assert what in said(fault, "what")
    assert where in said(fault, "where")
    # Nothing that only printed the stack is said to have called what failed.
    assert not {"dump_backtrace", "show_stack", "sched_show_task", "kasan_report"} & set(said(fault).split())
    frames = signature.of(cause=vmcore.cause, log=log).frames
    assert not frames or place[0] in {None, frames[0]}


@pytest.mark.parametrize("name", SURVIVED)
def test_a_log_of_an_error_that_ends_no_kernel_has_no_fault(name: str) -> None:
    path = POSTED / f"{name}.txt"
    vmcore = identify(path)
    assert (vmcore.cause, vmcore.panic) == (None, None)
    log = witness(path, vmcore, unpacked=path.parent).kernel
    assert explain(log, arch=vmcore.arch, readings=ALONE, panic=vmcore.panic, debugger=None) is None


def test_every_posted_log_has_a_row() -> None:
    assert {path.stem for path in POSTED.iterdir()} == {*KNOWN, *SURVIVED}


@pytest.mark.parametrize(
    ("name", "version", "hardware"),
    [("oops-2.6", "#1", "HP ProLiant DL380 G7"), ("soft-lockup-old", "#1", "Dell Inc. PowerEdge R610/0F0XJ6")],
)
def test_what_old_kernels_print_behind_their_version_is_the_hardware(name: str, version: str, hardware: str) -> None:
    vmcore = identify(Path(POSTED / f"{name}.txt"))
    assert (vmcore.utsname_version, vmcore.hardware) == (version, hardware)
