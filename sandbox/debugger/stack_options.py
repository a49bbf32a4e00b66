"""Ask one debugger for the stacks that a command of another one shows: both have `bt`, with different options."""

from __future__ import annotations

from typing import Final

_WITH_VALUE: Final = "c"
"""Options that both debuggers have and that take a value, in the same word or in the next one."""


def translated(command: str, *, known: str, looks: str) -> str | None:
    """`command`, a `bt` or a `foreach … bt`, in the words of a debugger that knows the options of the letters `known`.

    The letters `looks` only change how a frame is printed: they are left out. None for another command, and where an
    option asks for something else than stacks, or for stacks that are made another way.
    """
    words = command.split()
    if words[:1] == ["bt"]:
        at = 0
    elif words[:1] == ["foreach"] and "bt" in words:
        at = words.index("bt")
    else:
        return None
    kept = words[: at + 1]
    after = iter(words[at + 1 :])
    for word in after:
        if not word.startswith("-") or len(word) == 1:
            kept.append(word)
            continue
        letters = ""
        for place, letter in enumerate(word[1:], 2):
            if letter in _WITH_VALUE and letter in known:
                value = word[place:] or next(after, None)
                if value is None:
                    return None
                kept += [f"-{letter}", value]
                break
            if letter in known:
                letters += letter
            elif letter not in looks:
                return None
        if letters:
            kept.append(f"-{letters}")
    return " ".join(kept)
