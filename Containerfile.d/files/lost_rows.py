"""Let drgn's crash commands list what can be read where pages of the kernel are not in the dump, and count the rest.

drgn's own commands end at the first page that is missing, and print none of their rows. Without missing pages nothing
here changes their output.
"""

import functools

from broken_links import list_entries, tree_entries
from drgn import FaultError, container_of
from drgn.commands._crash import _fs, _net, _ps, _sys
from drgn.helpers.linux.block import bdev_partno
from drgn.helpers.linux.device import class_to_subsys


class LostRows:
    """What the commands had to leave out since it was asked last."""

    def __init__(self):
        self._lost = {}
        self._unreached = set()
        self._unknown = 0
        self._warnings = []

    def install(self):
        """Lets the commands skip rows of which pages are missing."""
        _sys.logger = self
        _sys.for_each_irq_desc = self._readable(_sys.for_each_irq_desc, "interrupts", _read_irq)
        _sys.for_each_disk = self._readable(_sys.for_each_disk, "disks", _read_disk, _disks)
        _fs.for_each_mount = self._readable(_fs.for_each_mount, "mounts", _read_mount, _mounts)
        _net.for_each_netdev = self._readable(_net.for_each_netdev, "network devices", _read_netdev, _netdevs)
        _ps.task_rss = self._or_unknown(_ps.task_rss, _Rss(float("nan")))
        _ps.task_vsize = self._or_unknown(_ps.task_vsize, float("nan"))

    def told(self):
        """One line for each kind of row that was left out, e.g. "mounts (2)"; then it is forgotten."""
        for what, count in sorted(self._lost.items()):
            least = "at least " if what in self._unreached else ""
            yield f"{what} ({least}{count}) are left out: pages of them are not in the dump"
        if self._unknown:
            yield f"sizes of tasks ({self._unknown}, shown as nan) are left out: pages of them are not in the dump"
        yield from self._warnings
        self._lost, self._unreached, self._unknown, self._warnings = {}, set(), 0, []

    def warning(self, text, *arguments):
        """In place of drgn's logger, which prints nothing in a session: `sys` leaves out lines that it cannot get."""
        if arguments[:1] != ("KERNEL",):  # the name of vmlinux, which a session without debuginfo has none of
            self._warnings.append(text % arguments)

    def _readable(self, each, what, read, reachable=None):
        """`each` without rows that `read` cannot read.

        Where it ends at a missing page, `reachable` finds the others: it takes the same arguments and returns (rows in
        any order, how many there are or None).
        """

        @functools.wraps(each)
        def rows(*arguments, **options):
            known = set()

            def is_whole(row):
                try:
                    read(row)
                except FaultError:
                    self._lost[what] = self._lost.get(what, 0) + 1
                    return False
                return True

            others, count, ended = (), None, False
            try:
                for row in each(*arguments, **options):
                    known.add(_key(row))
                    if is_whole(row):
                        yield row
            except FaultError:
                ended = True
            if ended and reachable is not None:
                others, count = reachable(*arguments)
            for row in others:
                if _key(row) not in known:
                    known.add(_key(row))
                    if is_whole(row):
                        yield row
            if ended and count is None:
                self._unreached.add(what)
                self._lost[what] = max(self._lost.get(what, 0), 1)
            elif ended and count > len(known):
                self._lost[what] = self._lost.get(what, 0) + count - len(known)

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


def _key(row):
    """What tells one row from another: its address, or the number of an interrupt."""
    return row[0] if isinstance(row, tuple) else row.value_()


# What can be reached of each kind where drgn's own helper ends at a missing page, and how many the kernel counted.


def _mounts(namespace):
    count = None
    try:
        if hasattr(namespace, "list"):
            rows = list_entries(namespace.list.address_of_(), "struct mount", "mnt_list")
            count = namespace.mounts.value_()
        else:
            rows = tree_entries(namespace.mounts.address_of_(), "struct mount", "mnt_node")
            count = namespace.nr_mounts.value_()
        return list(_readable_of(rows, lambda mount: mount if mount.mnt.mnt_sb else None)), count
    except FaultError:
        return [], count


def _disks(prog):
    def disk(private):
        device = container_of(private.device.read_(), "struct block_device", "bd_device")
        return None if bdev_partno(device) else device.bd_disk.read_()

    try:
        devices = class_to_subsys(prog["block_class"].address_of_()).klist_devices.k_list.address_of_()
        return list(_readable_of(list_entries(devices, "struct device_private", "knode_class.n_node"), disk)), None
    except (FaultError, LookupError):
        return [], None  # before 5.11 partitions are no block devices (commit 0d02129e76ed, v5.11)


def _netdevs(prog):
    head = prog["init_net"].dev_base_head.address_of_()
    return list_entries(head, "struct net_device", "dev_list"), None


def _readable_of(rows, get):
    """What `get` returns of each row, without None and without those of which it cannot read enough."""
    for row in rows:
        try:
            found = get(row)
        except FaultError:
            continue
        if found is not None:
            yield found


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
