"""Genuine vmcores of other machines: a kernel of Debian boots under QEMU in a container, panics, and is dumped."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import archives
from sandbox import image, profiles
from sandbox.engine import Bind, ContainerSpec, Engine
from sandbox.host import paths
from sandbox.image.package_sources import package_sources

CONTAINERFILE = """\
ARG BASE
FROM ${BASE}
ARG WORD
ARG QEMU
ARG KERNEL
ARG PROGRAMS
COPY sources.list /etc/apt/sources.list
COPY apt.conf /etc/apt/apt.conf.d/90vmbox-site
# One list that cannot be had is no harm: the packages of some machines are in one archive and no longer in another.
RUN rm -f /etc/apt/sources.list.d/* && dpkg --add-architecture $WORD && { apt-get -q update || true; } \\
 && apt-get -q -y --no-install-recommends install $QEMU cpio kmod xz-utils \\
 && kernel=$(apt-cache show $KERNEL:$WORD \\
    | sed -n 's/^Depends:.* \\(linux-image-[0-9][^ ,]*\\).*/\\1/p' | head -n 1) \\
 && parts=$(apt-cache show $kernel:$WORD | sed -n 's/^Depends: //p' | tr , '\\n' \\
    | sed -n 's/^ *\\(linux-\\(binary\\|modules\\)-[^ ]*\\).*/\\1/p') \\
 && mkdir /foreign && cd /foreign \\
 && for package in $kernel $parts busybox-static $PROGRAMS; do echo $package:$WORD; done | xargs apt-get -q download \\
 && for package in *.deb; do dpkg-deb -x "$package" root; done \\
 && if [ ! -d root/lib ]; then ln -s usr/lib root/lib; fi \\
 && if [ ! -d root/bin ]; then ln -s usr/bin root/bin; fi \\
 && for image in root/lib/modules/*/vmlinuz; do [ ! -e $image ] || install -D $image root/boot/vmlinuz-$kernel; done \\
 && rm -rf *.deb /var/lib/apt/lists/*
"""

MODULE = """\
ARG BASE
FROM ${BASE}
ARG WORD
ARG COMPILER
ARG PREFIX
ARG ARCH
# The machine's headers with this machine's kbuild, to which they have links.
RUN apt-get -q update \\
 && release=$(ls /foreign/root/lib/modules) && headers=linux-headers-$release:$WORD \\
 && common=$(apt-cache show $headers | sed -n 's/^Depends: //p' | tr , '\\n' \\
    | sed -n 's/^ *\\(linux-headers-[^ ]*-common\\)\\( (= \\([^)]*\\))\\)*.*/\\1/p' | head -n 1) \\
 && kbuild=$(apt-cache show $headers | sed -n 's/^Depends: //p' | tr , '\\n' \\
    | sed -n 's/^ *\\(linux-kbuild-[^ ]*\\).*/\\1/p' | head -n 1) \\
 && DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends install make $COMPILER ${kbuild%%:*} \\
 && mkdir /headers && cd /headers && apt-get -q download $headers $common \\
 && for package in *.deb; do dpkg-deb -x "$package" /; done && rm -rf /headers /var/lib/apt/lists/*
COPY demo-trigger.c /foreign/module/vmbox_demo.c
RUN release=$(ls /foreign/root/lib/modules) && echo 'obj-m := vmbox_demo.o' >/foreign/module/Makefile \\
 && make -C "/usr/src/linux-headers-$release" M=/foreign/module ARCH=$ARCH CROSS_COMPILE=$PREFIX \\
    KCFLAGS='-g -fno-omit-frame-pointer -mno-omit-leaf-frame-pointer -fno-optimize-sibling-calls' modules
"""
"""The module of `vmbox demo --trigger`, by a cross compiler. Flags as in demo-build."""

TREES = """\
set -eu
root=/foreign/root
release=$(ls "$root/lib/modules")
depmod -b "$root" "$release"

# tree DIRECTORY MODULE...: what an initial RAM disk starts from; its init is on standard input.
tree() {
    tree=$1
    shift
    mkdir -p "$tree/bin" "$tree/proc" "$tree/sys" "$tree/dev" "$tree/tmp" "$tree/modules"
    cp "$root/bin/busybox" "$tree/bin/"
    for module in "$@"; do
        modprobe -d "$root" -S "$release" --show-depends "$module"
    done | sed -n 's/^insmod \\([^ ]*\\).*/\\1/p' | awk '!seen[$0]++' | cat -n | while read -r number file; do
        copy="$tree/modules/$(printf %02d "$number").ko"
        case $file in
            *.xz) xz -dc "$file" >"$copy" ;;
            *) cp "$file" "$copy" ;;
        esac
    done
    {
        cat <<'INIT'
#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs dev /dev
for module in /modules/*; do
    [ ! -e "$module" ] || /bin/busybox insmod "$module"
done
INIT
        cat
    } >"$tree/init"
    chmod 755 "$tree/init"
}

packed() {
    (cd "$1" && find . | cpio -o -H newc --quiet | gzip -1)
}
"""

BY_QEMU = """\
tree /tmp/tree $MODULES <<'INIT'
/bin/busybox sleep 600 &
/bin/busybox sleep 1
if [ -e /trigger ]; then
    echo 1 >/proc/sys/kernel/panic_on_oops
    /bin/busybox insmod /vmbox_demo.ko trigger="$(/bin/busybox cat /trigger)"
fi
echo c >/proc/sysrq-trigger
INIT
if [ -n "$TRIGGER" ]; then
    echo "$TRIGGER" >/tmp/tree/trigger
    cp /foreign/module/vmbox_demo.ko /tmp/tree/
    cp /foreign/module/vmbox_demo.ko /foreign/module/vmbox_demo.c /out/
fi
packed /tmp/tree >/tmp/initrd
mkfifo /tmp/monitor
$QEMU -display none -no-reboot -action panic=pause -nic none -kernel "$root"/boot/vmlinuz-* -initrd /tmp/initrd \\
    -append "$CONSOLE rdinit=/init panic=0" -serial file:/tmp/console -monitor stdio <>/tmp/monitor >/dev/null &
for second in $(seq 1 240); do
    sleep 1
    if grep -q "$LAST_WORDS" /tmp/console 2>/dev/null; then
        sleep 1
        echo 'dump-guest-memory -z /out/vmcore' >/tmp/monitor
        echo 'dump-guest-memory /out/elf' >/tmp/monitor
        echo quit >/tmp/monitor
        wait
        exit 0
    fi
done
cat /tmp/console >&2
exit 1
"""
"""QEMU writes the memory down when the kernel has said its last words; a second time as ELF."""

BY_KEXEC = """\
tree /tmp/dies <<'INIT'
/bin/busybox sleep 600 &
/sbin/kexec -p /crash/vmlinux --initrd=/crash/initrd --append="$(/bin/busybox cat /crash/line)"
echo c >/proc/sysrq-trigger
INIT
tree /tmp/captures $MODULES <<'INIT'
/usr/bin/makedumpfile -c -d 31 /proc/vmcore /vmcore
/bin/busybox dd if=/vmcore of=/dev/vda bs=1M
/bin/busybox sync
echo "bytes of the dump: $(/bin/busybox stat -c %s /vmcore)"
/bin/busybox poweroff -f
INIT
mkdir -p /tmp/dies/sbin /tmp/dies/crash /tmp/captures/usr/bin
cp "$root/sbin/kexec" /tmp/dies/sbin/
cp "$root/usr/bin/makedumpfile" /tmp/captures/usr/bin/
for tree in /tmp/dies /tmp/captures; do
    (cd "$root" && find lib lib64 usr/lib -name '*.so*' ! -path '*/gconv/*' -print0 | cpio -p0dm --quiet "$tree")
done
packed /tmp/captures >/tmp/dies/crash/initrd
cp "$root"/boot/vmlinux-* /tmp/dies/crash/vmlinux
echo "$CONSOLE rdinit=/init maxcpus=1 irqpoll reset_devices" >/tmp/dies/crash/line
packed /tmp/dies >/tmp/initrd
truncate -s 1G /tmp/disk
timeout 300 $QEMU -display none -nodefaults -nic none -kernel "$root"/boot/vmlinux-* -initrd /tmp/initrd \\
    -append "$CONSOLE crashkernel=320M rdinit=/init panic=0" -serial file:/tmp/console -monitor none \\
    -drive file=/tmp/disk,format=raw,if=none,id=out,cache=unsafe -device virtio-blk-pci,drive=out || true
size=$(sed -n 's/.*bytes of the dump: \\([0-9]*\\).*/\\1/p' /tmp/console)
if [ -z "$size" ]; then
    cat /tmp/console >&2
    exit 1
fi
head -c "$size" /tmp/disk >/out/vmcore
"""
"""A second kernel has makedumpfile write the memory of the first, and the dump goes out on a disk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    name: str
    """As uname -m prints it."""
    word: str
    """Debian's name of the architecture."""
    packages: str
    """What has to be installed for `qemu`."""
    qemu: str
    """With one processor: after a panic of several, crash may take the registers of one for another's."""
    kernel: str
    """The meta package."""
    profile: str = "debian-12"
    """The profile whose package sources have it."""
    programs: str = ""
    """Packages of the machine that are needed in it, with the libraries they need."""
    modules: str = ""
    console: str = ""
    """What the kernel's command line says of it."""
    last_words: str = ""
    """Of the kernel on its console."""
    boot: str = BY_QEMU
    compiler: str = ""
    """The package of a cross compiler, where a module is compiled."""
    prefix: str = ""
    """Of that compiler's programs."""


MACHINES = {
    machine.name: machine
    for machine in (
        Machine(
            name="aarch64",
            word="arm64",
            packages="qemu-system-arm qemu-efi-aarch64-",
            qemu="qemu-system-aarch64 -M virt -accel tcg,thread=multi -cpu cortex-a57 -m 256 -smp 1 -device vmcoreinfo",
            kernel="linux-image-cloud-arm64",
            modules="qemu_fw_cfg",
            console="console=ttyAMA0",
            last_words="end Kernel panic",
            compiler="gcc-aarch64-linux-gnu",
            prefix="aarch64-linux-gnu-",
        ),
        # QEMU writes a big-endian header for this machine, which crash does not take: the kernel dumps itself.
        Machine(
            name="ppc64le",
            word="ppc64el",
            packages="qemu-system-ppc",
            # What TCG does not have of a POWER9 is switched off, or QEMU warns; with a screen the second kernel hangs.
            qemu="qemu-system-ppc64 -M pseries,cap-cfpc=broken,cap-sbbc=broken,cap-ibs=broken,cap-ccf-assist=off"
            " -accel tcg,thread=multi -cpu power9 -m 1024 -smp 1 -vga none",
            kernel="linux-image-powerpc64le",
            programs="kexec-tools makedumpfile libc6 libdw1 libelf1 libbz2-1.0 liblzma5 liblzo2-2 zlib1g",
            modules="virtio_pci virtio_blk",
            console="console=hvc0",
            boot=BY_KEXEC,
        ),
        Machine(
            name="s390x",
            word="s390x",
            packages="qemu-system-misc",
            qemu="qemu-system-s390x -M s390-ccw-virtio -accel tcg -m 256 -smp 1",
            kernel="linux-image-s390x",
            # The last of all panics says no more: the processor waits, disabled, and QEMU knows that for a panic.
            last_words="Kernel panic - not syncing",
        ),
    )
}


def make_vmcore(engine: Engine, machine: Machine, directory: Path, trigger: str = "") -> Path:
    """Leaves vmcore in `directory`, and elf where QEMU writes it. Takes a minute or two.

    With `trigger`, one of `vmbox demo`, its module ends the kernel, and is left there with its source.
    """
    profile = profiles.by_name(machine.profile)
    files = {
        "Containerfile": CONTAINERFILE.encode(),
        **{name: text for name, text in package_sources(profile).items() if name != "vmbox.repo"},
    }
    ref = f"localhost/vmbox-test/{machine.name}-{machine.profile}:4"
    if engine.image(ref) is None:
        args = {
            "BASE": image.ensure_base(profile, engine),
            "WORD": machine.word,
            "QEMU": machine.packages,
            "KERNEL": machine.kernel,
            "PROGRAMS": machine.programs,
        }
        list(engine.build(io.BytesIO(archives.tar(files)), ref, labels={"vmbox.standin": machine.name}, args=args))
    if trigger:
        ref = _with_module(engine, machine, ref)
    spec = ContainerSpec(
        image=ref,
        argv=["sh", "-c", TREES + machine.boot],
        env={
            "QEMU": machine.qemu,
            "MODULES": machine.modules,
            "CONSOLE": machine.console,
            "LAST_WORDS": machine.last_words,
            "TRIGGER": trigger,
        },
        binds=[Bind(source=directory.resolve(), target="/out", read_only=False)],
        hardened=False,
        as_caller=False,
    )
    for _ in engine.run(spec):
        pass
    return directory / "vmcore"


def _with_module(engine: Engine, machine: Machine, base: str) -> str:
    """The image with the machine's kernel and a module compiled for it."""
    source = paths.data_dir() / "Containerfile.d" / "files" / "demo-trigger.c"
    digest = hashlib.sha256(source.read_bytes() + MODULE.encode()).hexdigest()[:12]
    ref = f"localhost/vmbox-test/{machine.name}-{machine.profile}-module:{digest}"
    if engine.image(ref) is None:
        files = {"Containerfile": MODULE.encode(), source.name: source.read_bytes()}
        args = {
            "BASE": base,
            "WORD": machine.word,
            "COMPILER": machine.compiler,
            "PREFIX": machine.prefix,
            "ARCH": machine.word,
        }
        list(engine.build(io.BytesIO(archives.tar(files)), ref, labels={"vmbox.standin": machine.name}, args=args))
    return ref
