"""Requests to Podman's API, answered by a server of ours on a Unix socket: what a real Podman does not do at will."""

from __future__ import annotations

import io
import json
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from sandbox.engine import podman_info
from sandbox.engine.libpod import FAILURES, Libpod, LibpodError
from sandbox.engine.podman import PodmanEngine
from sandbox.engine.podman_info import KeptInfo
from sandbox.errors import EngineFailed

Answers = dict[str, Callable[[Any], None]]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, Answers, list[str]]]:
    """(the server's URL; what answers, by the last word of the path; the request lines that came)"""
    answers: Answers = {}
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None: ...

        def address_string(self) -> str:
            return ""

        def handle_one_request(self) -> None:
            self.raw_requestline = self.rfile.readline(65537)
            if not self.raw_requestline or not self.parse_request():
                self.close_connection = True
                return
            asked.append(f"{self.command} {self.path}")
            answers[self.path.partition("?")[0].rpartition("/")[2]](self)

    class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
        daemon_threads = True

    path = tmp_path / "p.sock"
    with Server(str(path), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield f"unix://{path}", answers, asked
        server.shutdown()


def says(status: int, body: bytes) -> Callable[[Any], None]:
    def answer(handler: Any) -> None:
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def test_refusals_keep_podmans_words(served: tuple[str, Answers, list[str]]) -> None:
    url, answers, asked = served
    call = Libpod(url).call
    answers["json"] = says(
        500, json.dumps({"cause": "x", "message": 'no such container "c"', "response": 500}).encode()
    )
    with pytest.raises(LibpodError, match='no such container "c"') as refused:
        call("GET", "/containers/c/json", params={"all": True, "changes": ["LABEL a=b", "c"]})
    assert (refused.value.status, refused.value.missing) == (500, True)
    assert asked == ["GET /v5.8.0/libpod/containers/c/json?all=True&changes=LABEL+a%3Db&changes=c"]
    for body, words in ((b"a proxy's words", "a proxy's words"), (b"", "502 Bad Gateway"), (b"[]", "[]")):
        answers["json"] = says(502, body)
        with pytest.raises(LibpodError) as refused:
            call("GET", "/containers/c/json")
        assert (str(refused.value), refused.value.missing) == (words, False)


def test_images_are_listed_again_where_one_disappears_meanwhile(served: tuple[str, Answers, list[str]]) -> None:
    url, answers, asked = served
    gone = says(500, b'{"cause": "image not known", "message": "0123: image not known", "response": 500}')
    listed = says(200, json.dumps([{"Id": "4567", "Size": 1}]).encode())
    coming = iter([gone, gone, listed])

    def one_after_the_other(handler: Any) -> None:
        next(coming)(handler)

    answers["json"] = one_after_the_other
    assert [one.id for one in PodmanEngine(url).images({})] == ["4567"]
    assert len(asked) == 3
    answers["json"] = gone
    with pytest.raises(EngineFailed, match="image not known"):
        PodmanEngine(url).images({})
    answers["json"] = says(500, b'{"message": "another reason"}')
    asked.clear()
    with pytest.raises(EngineFailed, match="another reason"):
        PodmanEngine(url).images({})
    assert len(asked) == 1


def test_a_container_that_ends_while_it_is_removed_is_removed(served: tuple[str, Answers, list[str]]) -> None:
    url, answers, asked = served
    overtaken = b"could not be stopped: sending SIGKILL to container c: container state improper: stopped"
    coming = iter([says(500, b'{"message": "%s"}' % overtaken), says(200, b"[]")])

    def one_after_the_other(handler: Any) -> None:
        next(coming)(handler)

    answers["c"] = one_after_the_other
    PodmanEngine(url).remove("c")
    assert len(asked) == 2
    answers["c"] = says(500, b'{"message": "another reason"}')
    with pytest.raises(EngineFailed, match="another reason"):
        PodmanEngine(url).remove("c")
    assert len(asked) == 3


def test_a_refusal_before_the_whole_body_is_read(served: tuple[str, Answers, list[str]]) -> None:
    url, answers, _ = served

    def refuse(handler: Any) -> None:
        handler.close_connection = True
        says(400, b'{"message": "this is no tar"}')(handler)

    answers["load"] = refuse
    with pytest.raises(LibpodError, match="this is no tar"):
        Libpod(url).call("POST", "/images/load", data=io.BytesIO(bytes(64 << 20)))


def test_events_arrive_one_by_one(served: tuple[str, Answers, list[str]]) -> None:
    url, answers, _ = served
    goes_on = threading.Event()

    def events(handler: Any) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for piece in (b'{"stream": "a"}\n{"str', b'eam": "b"}\n'):
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            handler.wfile.flush()
            assert goes_on.wait(10)
        handler.wfile.write(b"0\r\n\r\n")

    answers["build"] = events
    found = Libpod(url).call("POST", "/build", data=io.BytesIO(b"tar")).events()
    assert next(found) == {"stream": "a"}
    goes_on.set()
    assert list(found) == [{"stream": "b"}]


def test_bytes_that_come_with_the_upgrade_are_kept(served: tuple[str, Answers, list[str]]) -> None:
    url, answers, _ = served

    def upgrade(handler: Any) -> None:
        assert handler.headers["Upgrade"] == "tcp"
        # A socket that is closed with bytes unread resets its peer, which may not have read yet.
        handler.rfile.read(int(handler.headers["Content-Length"]))
        handler.wfile.write(b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\nfirst")
        handler.wfile.flush()
        handler.connection.shutdown(socket.SHUT_WR)
        handler.close_connection = True

    answers["start"] = upgrade
    answer = Libpod(url).call("POST", "/exec/x/start", json_body={"Detach": False}, upgrade=True)
    reader, sock = answer.upgraded()
    assert reader.read() == b"first"
    assert sock.recv(1) == b""
    answer.close()


def test_a_dead_socket_is_named(tmp_path: Path) -> None:
    url = f"unix://{tmp_path}/none.sock"
    with pytest.raises(FAILURES):
        Libpod(url).call("GET", "/info")
    with pytest.raises(EngineFailed, match=r"Podman cannot list images at unix://.*none\.sock: .*No such file"):
        PodmanEngine(url).images({})


INFO = {
    "host": {
        "arch": "amd64", "security": {"rootless": False}, "cgroupVersion": "v2", "memTotal": 1 << 30, "cpus": 2,
        "hostname": "h", "kernel": "k",
    },
    "store": {"graphDriverName": "overlay"},
    "version": {"Version": "4.3.1"},
    "plugins": {"log": ["k8s-file"]},
}  # fmt: skip


def test_a_podman_is_asked_once_about_itself(
    served: tuple[str, Answers, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until something changes that the answer depends on; and a file that is no answer counts as none."""
    url, answers, asked = served
    answers["info"] = says(200, json.dumps(INFO).encode())
    monkeypatch.setenv("VMBOX_RUNTIME_DIR", str(tmp_path / "run"))
    (tmp_path / "run").mkdir(mode=0o700)
    (settings := tmp_path / "containers").mkdir()
    monkeypatch.setattr(podman_info, "_CONFIGURATION", (str(settings),))

    def said(*command: str) -> str:
        engine = PodmanEngine(url, kept=KeptInfo(command or ("/usr/bin/podman",)))
        return f"{engine.info().version} {engine.info().arch} {engine.uses_vfs()}"

    assert [said(), said(), said()] == ["4.3.1 x86_64 False"] * 3
    assert len(asked) == 1
    changes: tuple[Callable[[], object], ...] = (
        lambda: (settings / "storage.conf").write_text("[storage]"),
        lambda: (settings / "storage.conf").write_text("[storage]\ndriver = 'vfs'"),
        lambda: monkeypatch.setenv("CONTAINERS_STORAGE_CONF", "/x"),
        lambda: (tmp_path / "run/podman-info.json").write_text("{"),
        lambda: (tmp_path / "run/podman-info.json").write_text('{"depends_on": []}'),
        (tmp_path / "run/podman-info.json").unlink,
    )
    for number, change in enumerate(changes, 2):
        change()
        assert said() == said() == "4.3.1 x86_64 False"
        assert len(asked) == number
    said("/usr/bin/podman", "--root", "/elsewhere")
    assert len(asked) == len(changes) + 2
