"""A real server on loopback, `transformers serve`, and a relay before it that breaks what it says.

The server has models of a hub's cache, by their names there, and whatever folder it is asked for.
"""

import json
import os
import re
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from typing import Any

LONGEST_START = 120  # seconds
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def cached(cache: Path, name: str) -> Path:
    """Return the folder of a model in a hub's cache, new; what is put there bears `name`."""
    repository = cache / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    folder = repository / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    return folder


@contextmanager
def serving(cache: Path) -> Iterator[int]:
    """Run `transformers serve` on a port of its own, which is given; models as in `cache`."""
    command = "from transformers.cli.transformers import main; main()"
    options = ("serve", "--host", "127.0.0.1", "--port", "0", "--device", "cpu")
    cache.mkdir(exist_ok=True)
    said = cache.with_name(f"{cache.name}.log")
    env = os.environ | {"HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with said.open("wb") as log:
        started = [sys.executable, "-c", command, *options]
        server = subprocess.Popen(started, env=env, stdout=log, stderr=log)
    try:
        until = time.monotonic() + LONGEST_START
        while not (found := re.search(r"running on http://127.0.0.1:(\d+)", said.read_text())):
            assert server.poll() is None, said.read_text()
            assert time.monotonic() < until, said.read_text()
            time.sleep(0.1)
        yield int(found[1])
    finally:
        server.terminate()
        server.wait(30)


@dataclass
class Relay:
    """What stands before the server: how it is to misbehave, and what it was asked.

    Each of `faults` breaks one request for a completion, the first that comes first.
    """

    port: int = 0
    faults: list[str] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"


def _broken(fault: str, answer: dict[str, Any]) -> dict[str, Any]:
    """Return the server's answer as it must not be."""
    [choice] = answer["choices"]
    if fault == "no choice":
        return answer | {"choices": []}
    if fault == "two choices":
        return answer | {"choices": [choice, choice]}
    if fault == "no text":
        return answer | {"choices": [{k: v for k, v in choice.items() if k != "text"}]}
    if fault == "text is null":
        return answer | {"choices": [choice | {"text": None}]}
    if fault == "aborted":
        return answer | {"choices": [choice | {"finish_reason": "abort"}]}
    if fault == "another model":
        return answer | {"model": "tiny/another"}
    if fault == "no usage":
        return {k: v for k, v in answer.items() if k != "usage"}
    if fault == "another prompt":
        return answer | {"usage": answer["usage"] | {"prompt_tokens": 1}}
    raise ValueError(fault)


def _handler(relay: Relay, server: int) -> type[BaseHTTPRequestHandler]:
    lock = Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            self.pass_on(None)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            with lock:
                relay.asked.append(json.loads(body))
                relay.keys.append(self.headers.get("Authorization"))
                relay.at_once += 1
                relay.most_at_once = max(relay.most_at_once, relay.at_once)
                fault = relay.faults.pop(0) if relay.faults else None
            try:
                self.answer(fault, body)
            finally:
                with lock:
                    relay.at_once -= 1

        def answer(self, fault: str | None, body: bytes) -> None:
            if fault is None:
                return self.pass_on(body)
            if found := re.fullmatch(r"(\d{3})(?: after (.+))?", fault):
                wait = {"Retry-After": found[2]} if found[2] else {}
                key = self.headers.get("Authorization")
                said = json.dumps({"error": {"message": f"no, not with {key}"}})
                return self.say(int(found[1]), said.encode(), wait)
            if fault == "reset":  # instead of an orderly end
                now = struct.pack("ii", 1, 0)
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, now)
                self.connection.close()
                self.close_connection = True
                return None
            if fault == "silence":
                time.sleep(5)
                return self.say(200, b"{}", {})
            status, answer = self.of_server(body)
            if fault == "cut off":
                return self.say(status, answer, {"Content-Length": str(2 * len(answer))})
            if fault == "no JSON":
                return self.say(status, answer[: len(answer) // 2], {})
            return self.say(status, json.dumps(_broken(fault, json.loads(answer))).encode(), {})

        def of_server(self, body: bytes | None) -> tuple[int, bytes]:
            """Ask the server itself."""
            connection = HTTPConnection("127.0.0.1", server, timeout=60)
            headers = {"Content-Type": "application/json"} if body else {}
            connection.request(self.command, self.path, body, headers)
            response = connection.getresponse()
            found = response.status, response.read()
            connection.close()
            return found

        def pass_on(self, body: bytes | None) -> None:
            self.say(*self.of_server(body), {})

        def say(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)
            if "Content-Length" in headers:
                self.close_connection = True

    return Handler


@contextmanager
def relaying(server: int) -> Iterator[Relay]:
    """Stand before the server at a port while the block runs."""
    relay = Relay()
    with ThreadingHTTPServer(("127.0.0.1", 0), _handler(relay, server)) as http:
        http.daemon_threads = True
        relay.port = http.server_address[1]
        Thread(target=http.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield relay
        finally:
            http.shutdown()
