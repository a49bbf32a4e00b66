"""A genuine aarch64 vmcore: a kernel boots under QEMU in a container, panics, and QEMU writes its memory down."""

from __future__ import annotations

import io
from pathlib import Path

import archives
from sandbox import containerfile, image, profiles
from sandbox.engine import Bind, ContainerSpec, Engine

CONTAINERFILE = """\
ARG BASE
FROM ${BASE}
COPY sources.list /etc/apt/sources.list
COPY apt.conf /etc/apt/apt.conf.d/90vmbox-site
RUN rm -f /etc/apt/sources.list.d/* && dpkg --add-architecture arm64 && apt-get -q update \\
 && apt-get -q -y --no-install-recommends install qemu-system-arm qemu-efi-aarch64- cpio kmod xz-utils \\
 && kernel=$(apt-cache show linux-image-cloud-arm64:arm64 \\
    | sed -n 's/^Depends: \\(linux-image-[0-9][^ ,]*\\).*/\\1/p' | head -n 1) \\
 && mkdir /foreign && cd /foreign && apt-get -q download "$kernel:arm64" busybox-static:arm64 \\
 && for package in *.deb; do dpkg-deb -x "$package" root; done \\
 && rm -rf *.deb /var/lib/apt/lists/*
"""

BOOT = """\
#!/bin/sh
# Boots the arm64 kernel of /foreign, which panics at once, and leaves /out/vmcore.
set -eu
root=/foreign/root tree=/tmp/tree
release=$(ls "$root/lib/modules")
mkdir -p $tree/bin $tree/proc $tree/sys $tree/dev
cp "$root/bin/busybox" $tree/bin/
depmod -b "$root" "$release"
module=$(modprobe -d "$root" -S "$release" --show-depends qemu_fw_cfg | sed -n 's/^insmod \\([^ ]*\\).*/\\1/p')
cp "$module" $tree/fw.ko
cat >$tree/init <<'INIT'
#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox insmod /fw.ko
/bin/busybox sleep 600 &
/bin/busybox sleep 1
echo c > /proc/sysrq-trigger
INIT
chmod 755 $tree/init
(cd $tree && find . | cpio -o -H newc --quiet) >/tmp/initrd
mkfifo /tmp/monitor
# One processor: a panic takes the others offline, and crash then takes the registers of the first for the last one's.
qemu-system-aarch64 -M virt -accel tcg,thread=multi -cpu cortex-a57 -m 256 -smp 1 -display none -no-reboot -nic none \\
    -device vmcoreinfo -kernel "$root"/boot/vmlinuz-* -initrd /tmp/initrd \\
    -append "console=ttyAMA0 rdinit=/init panic=0" -serial file:/tmp/console -monitor stdio <>/tmp/monitor >/dev/null &
for second in $(seq 1 240); do
    sleep 1
    if grep -q 'end Kernel panic' /tmp/console 2>/dev/null; then
        echo 'dump-guest-memory -z /out/vmcore' >/tmp/monitor
        echo quit >/tmp/monitor
        wait
        exit 0
    fi
done
cat /tmp/console >&2
exit 1
"""


def make_vmcore(engine: Engine, directory: Path) -> Path:
    """Leaves vmcore in `directory`. Takes a minute."""
    profile = profiles.by_name("debian-12")
    files = {
        "Containerfile": CONTAINERFILE.encode(),
        **{name: text for name, text in containerfile.package_sources(profile).items() if name != "vmbox.repo"},
    }
    ref = "localhost/vmbox-test/aarch64:2"
    if engine.image(ref) is None:
        base = image.ensure_base(profile, engine)
        context = io.BytesIO(archives.tar(files))
        list(engine.build(context, ref, labels={"vmbox.standin": "aarch64"}, args={"BASE": base}))
    spec = ContainerSpec(
        image=ref,
        argv=["sh", "-c", BOOT],
        binds=[Bind(source=directory.resolve(), target="/out", read_only=False)],
        hardened=False,
        as_caller=False,
    )
    for _ in engine.run(spec):
        pass
    return directory / "vmcore"
