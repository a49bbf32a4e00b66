"""crash commands as users give them, and running them one after the other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from sandbox import loading, render
from sandbox.opening import Wishes, warm
from sandbox.progress import Reporter
from sandbox.session import Session


def from_arguments(arguments: Sequence[str]) -> list[str]:
    """["bt", "-a", "--", "ps", "-t"] -> ["bt -a", "ps -t"]. Words are joined as crash will split them again."""
    commands: list[list[str]] = [[]]
    for argument in arguments:
        if argument == "--":
            commands.append([])
        else:
            commands[-1].append(argument)
    return [" ".join(words) for words in commands if words]


def from_lines(lines: Iterable[str]) -> Iterator[str]:
    """One command a line, as in a crash input file: empty lines and comments do nothing."""
    for line in lines:
        command = line.strip()
        if command and not command.startswith("#"):
            yield command


def run_all(
    dump: Path,
    commands: Iterable[str],
    *,
    wishes: Wishes,
    timeout: float | None,
    json: bool,
    reporter: Reporter,
) -> int:
    """Runs `commands` on the dump's case, opening it if need be. Returns 0, or 1 if crash reported an error."""
    output = render.Output()
    status = 0
    with _session(dump, wishes, reporter) as session:
        for command in commands:
            loading.fetch_for(command, session, reporter)
            pieces: list[bytes] = []
            transcript = session.run(command, pieces.append if json else output, timeout=timeout)
            if transcript.status != "ok":
                status = 1
            if json:
                render.json_line(
                    {
                        "command": transcript.command,
                        "status": transcript.status,
                        "seconds": round(transcript.seconds, 6),
                        "output": b"".join(pieces).decode(errors="backslashreplace"),
                    }
                )
    return status


def _session(dump: Path, wishes: Wishes, reporter: Reporter) -> Session:
    """A session with crash at its prompt; the warnings of its start are shown."""
    session, said = warm(dump, wishes, reporter)
    if said:
        render.note(render.visible(said.decode(errors="replace")).strip("\n"))
    return session
