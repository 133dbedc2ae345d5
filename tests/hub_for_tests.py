"""A small hub on loopback that answers as the real one does: its API, its redirects, its errors.

What is known of the real one: `/api/models/<name>/revision/<revision>` states the commit and the
files; `/<name>/resolve/<revision>/<file>` gives small files at once, under their git id, and leads
to another address for large ones, under their sha256; errors have a code in X-Error-Code.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

LARGE = 1000  # bytes from which a file is kept outside of git


@dataclass
class Repository:
    """A model of the hub: its commits' files, its branches, and who may read it."""

    commits: dict[str, dict[str, bytes]]
    branches: dict[str, str]
    is_gated: bool = False
    is_private: bool = False


@dataclass
class Hub:
    """What the server has, how it is to misbehave, and what it was asked."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    breaks_after: list[int] = field(default_factory=list)  # bytes; one for each transfer to break
    ignores_ranges: bool = False
    corrupts: bool = False
    is_down: bool = False
    ports: list[int] = field(default_factory=list)  # of the hub, and of its store of large files
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)  # method, path, range
    tokens_at_store: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports[0]}"

    @property
    def addresses(self) -> str:
        """The hosts and ports that a download goes to, with spaces between."""
        return " ".join(f"127.0.0.1:{port}" for port in self.ports)

    def add(self, name: str, folder: Path, commit: str, **who: bool) -> None:
        """Take in a folder's files as a commit, on which the branch main then stands."""
        files = {
            str(path.relative_to(folder)): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        known = self.repositories.setdefault(name, Repository({}, {}, **who))
        known.commits[commit] = files
        known.branches["main"] = commit

    def fetched(self) -> list[str]:
        """Return the names of the files that were asked for, in order."""
        paths = [path for method, path, _ in self.asked if method == "GET"]
        return [path.rsplit("/", 1)[-1] for path in paths if "/resolve/" in path]


def git_id(content: bytes) -> str:
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


def pointer(content: bytes) -> bytes:
    """Return what git keeps in the place of a large file."""
    sha256 = hashlib.sha256(content).hexdigest()
    return (
        f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {len(content)}\n"
    ).encode()


def sibling(name: str, content: bytes) -> dict[str, Any]:
    if len(content) < LARGE:
        return {"rfilename": name, "size": len(content), "blobId": git_id(content)}
    kept = pointer(content)
    sha256 = hashlib.sha256(content).hexdigest()
    return {
        "rfilename": name,
        "size": len(content),
        "blobId": git_id(kept),
        "lfs": {"sha256": sha256, "size": len(content), "pointerSize": len(kept)},
    }


def handler_of(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            hub.asked.append((self.command, self.path, self.headers.get("Range")))
            if hub.is_down:
                return self.say(503, b"Service Unavailable", {})
            path = unquote(urlsplit(self.path).path)
            if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
                return self.tell(found[1], found[2] or "main")
            if found := re.fullmatch(r"/store/([0-9a-f]{64})", path):
                hub.tokens_at_store += self.headers.get_all("Authorization", [])
                return self.give(self.large(found[1]), {"ETag": f'"{found[1]}"'})
            if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
                return self.resolve(found[1], found[2], found[3])
            return self.refuse(404, "RepoNotFound", "Repository not found")

        def repository(self, name: str) -> Repository | None:
            known = hub.repositories.get(name)
            if known is None or (known.is_private and not self.headers.get("Authorization")):
                # To a stranger a private model and none look alike.
                self.refuse(401, "RepoNotFound", "Invalid username or password.")
                return None
            return known

        def commit(self, known: Repository, revision: str) -> str | None:
            commit = known.branches.get(revision, revision)
            if commit not in known.commits:
                self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
                return None
            return commit

        def tell(self, name: str, revision: str) -> None:
            if not (known := self.repository(name)):
                return
            if not (commit := self.commit(known, revision)):
                return
            files = known.commits[commit]
            info = {
                "_id": "0" * 24,
                "id": name,
                "modelId": name,
                "sha": commit,
                "private": known.is_private,
                "gated": "manual" if known.is_gated else False,
                "tags": ["safetensors"],
                "downloads": 0,
                "likes": 0,
                "siblings": [sibling(name, content) for name, content in files.items()],
            }
            self.say(200, json.dumps(info).encode(), {"Content-Type": "application/json"})

        def resolve(self, name: str, revision: str, file: str) -> None:
            if not (known := self.repository(name)):
                return
            if known.is_gated and not self.headers.get("Authorization"):
                self.refuse(401, "GatedRepo", f"Access to model {name} is restricted.")
                return
            if not (commit := self.commit(known, revision)):
                return
            if (content := known.commits[commit].get(file)) is None:
                self.refuse(404, "EntryNotFound", "Entry not found")
                return
            of_file = {"X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
            if len(content) < LARGE:
                self.give(content, of_file | {"ETag": f'"{git_id(content)}"'})
                return
            sha256 = hashlib.sha256(content).hexdigest()
            linked = {
                "X-Linked-Size": str(len(content)),
                "X-Linked-ETag": f'"{sha256}"',
                "ETag": f'"{git_id(pointer(content))}"',
                "Location": f"http://127.0.0.1:{hub.ports[1]}/store/{sha256}",
            }
            self.say(302, b"Found", of_file | linked)

        def large(self, sha256: str) -> bytes:
            for known in hub.repositories.values():
                for files in known.commits.values():
                    for content in files.values():
                        if hashlib.sha256(content).hexdigest() == sha256:
                            return content
            raise LookupError(sha256)

        def give(self, content: bytes, headers: dict[str, str]) -> None:
            """Give a file, or the part of it that is asked for; break off where told to."""
            start, status = 0, 200
            asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
            if asked and not hub.ignores_ranges:
                start, status = int(asked[1]), 206
                headers = headers | {
                    "Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"
                }
            body = content[start:]
            if hub.corrupts:
                body = body[:-1] + bytes([body[-1] ^ 1])
            breaks = self.command == "GET" and len(content) >= LARGE and hub.breaks_after
            cut = hub.breaks_after.pop(0) if breaks else None
            self.say(status, body, headers, cut)

        def refuse(self, status: int, code: str, message: str) -> None:
            headers = {"X-Error-Code": code, "X-Error-Message": message}
            self.say(status, json.dumps({"error": message}).encode(), headers)

        def say(
            self, status: int, body: bytes, headers: dict[str, str], cut: int | None = None
        ) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body[:cut])
            if cut is not None:
                self.close_connection = True

    return Handler


@contextmanager
def serving() -> Iterator[Hub]:
    """Serve an empty hub on two ports of its own while the block runs."""
    hub = Hub()
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), handler_of(hub)) for _ in range(2)]
    hub.ports += [server.server_address[1] for server in servers]
    threads = [Thread(target=server.serve_forever, args=(0.05,), daemon=True) for server in servers]
    for thread in threads:
        thread.start()
    try:
        yield hub
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()
