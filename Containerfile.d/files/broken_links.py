"""Follow lists and trees of the kernel where pages of their nodes are not in the dump: what can be reached is found."""

from drgn import FaultError, container_of


def list_entries(head, type_, member):
    """The entries of a `struct list_head *`; where it is broken, those from both ends up to the missing pages."""
    seen = set()
    for direction in ("next", "prev"):
        at = head
        try:
            while True:
                at = getattr(at, direction).read_()
                if at.value_() == head.value_():
                    return
                if at.value_() in seen:
                    break
                seen.add(at.value_())
                yield container_of(at, type_, member)
        except FaultError:
            continue


def tree_entries(root, type_, member):
    """The entries of a `struct rb_root *` in their order, without those below a node that cannot be read."""
    seen = set()

    def below(node):
        if not node or node.value_() in seen:
            return
        seen.add(node.value_())
        try:
            left, right = node.rb_left.read_(), node.rb_right.read_()
        except FaultError:
            return
        yield from below(left)
        yield container_of(node, type_, member)
        yield from below(right)

    try:
        top = root.rb_node.read_()
    except FaultError:
        return
    yield from below(top)
