"""Let drgn's crash commands list what can be read where pages of the kernel are not in the dump, and count the rest.

drgn's own commands end at the first page that is missing, and print none of their rows. Without missing pages nothing
here changes their output.
"""

import functools

from drgn import FaultError
from drgn.commands._crash import _fs, _net, _ps, _sys


class LostRows:
    """What the commands had to leave out since it was asked last."""

    def __init__(self):
        self._lost = {}
        self._rest = set()
        self._unknown = 0

    def install(self):
        """Lets the commands skip rows of which pages are missing."""
        _sys.for_each_irq_desc = self._readable(_sys.for_each_irq_desc, "interrupts", _read_irq)
        _sys.for_each_disk = self._readable(_sys.for_each_disk, "disks", _read_disk)
        _fs.for_each_mount = self._readable(_fs.for_each_mount, "mounts", _read_mount)
        _net.for_each_netdev = self._readable(_net.for_each_netdev, "network devices", _read_netdev)
        _ps.task_rss = self._or_unknown(_ps.task_rss, _Rss(float("nan")))
        _ps.task_vsize = self._or_unknown(_ps.task_vsize, float("nan"))

    def told(self):
        """One line for each kind of row that was left out, e.g. "mounts (2)"; then it is forgotten."""
        for what in sorted({*self._lost, *self._rest}):
            count = str(self._lost[what]) if what in self._lost else ""
            rest = "all that would follow" if what in self._rest else ""
            yield f"{what} ({', '.join(filter(None, (count, rest)))}) are left out: pages of them are not in the dump"
        if self._unknown:
            yield f"sizes of tasks ({self._unknown}, shown as nan) are left out: pages of them are not in the dump"
        self._lost, self._rest, self._unknown = {}, set(), 0

    def _readable(self, each, what, read):
        @functools.wraps(each)
        def rows(*arguments, **options):
            iterator = each(*arguments, **options)
            while True:
                try:
                    row = next(iterator)
                except StopIteration:
                    return
                except FaultError:
                    self._rest.add(what)
                    return
                try:
                    read(row)
                except FaultError:
                    self._lost[what] = self._lost.get(what, 0) + 1
                else:
                    yield row

        return rows

    def _or_unknown(self, function, unknown):
        @functools.wraps(function)
        def value(*arguments):
            try:
                return function(*arguments)
            except FaultError:
                # `ps` asks for both of a task.
                self._unknown += isinstance(unknown, _Rss)
                return unknown

        return value


class _Rss:
    """A resident size that is not known, in the place of drgn's TaskRss."""

    def __init__(self, total):
        self.total = total


# What a row of each command needs: read here, so that the row is printed whole or not at all.


def _read_irq(row):
    _, desc = row
    if desc.action:
        _sys.irq_desc_chip_name(desc)
        _sys.irq_desc_action_names(desc)
        _sys.irq_desc_affinity_mask(desc)
        desc.kstat_irqs.read_()


def _read_disk(disk):
    _sys.disk_name(disk)
    disk.major.value_()
    disk.queue.read_()
    disk.fops.value_()


def _read_mount(mount):
    mount.mnt.mnt_sb.value_()
    _fs.mount_fstype(mount)
    _fs.mount_src(mount)
    _fs.mount_dst(mount)


def _read_netdev(device):
    _net.netdev_name(device)
    _net.netdev_ipv4_addrs(device)
    _net.netdev_ipv6_addrs(device)
