"""A server on 127.0.0.1 that plays the hub, with the faults of real networks."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Repository:
    """A model repository with one commit, which is also `main`.

    Attributes:
        files: content by name.
        large: files announced with their SHA-256, as the hub does for weights; others are with
            git's hash.
        faults: what happens to a file: "cut" (the body stops early, always), "cut once" (then it
            can be resumed), "longer" (a size that the body never reaches), "unannounced" (no size,
            and the body stops early), "changed" (other bytes of the same number), or a status code
            such as "500".
        access: "open", "gated" (files give 403), "private" (everything gives 401 without token).
    """

    files: dict[str, bytes]
    large: frozenset[str] = frozenset({"model.safetensors"})
    faults: dict[str, str] = field(default_factory=dict)
    access: str = "open"


@dataclass
class Hub:
    """A running server.

    Attributes:
        url: its address, for HF_ENDPOINT.
        repositories: what it serves, by name.
        requests: "METHOD path" of every request so far.
    """

    url: str
    repositories: dict[str, Repository]
    requests: list[str] = field(default_factory=list)

    def fetched(self) -> set[str]:
        """The names of the files whose content was asked for."""
        return {
            line.rsplit("/", 1)[1]
            for line in self.requests
            if line.startswith("GET") and "/resolve/" in line
        }


@contextmanager
def serve(repositories: dict[str, Repository]) -> Iterator[Hub]:
    """Runs the server in a thread for the length of a `with` block."""
    hub = Hub("", repositories)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, format: str, *arguments: Any) -> None:
        """Quiet."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        for name, repository in self.hub.repositories.items():
            token = self.headers.get("Authorization")
            if repository.access == "private" and token != "Bearer good":
                continue
            for address in (f"/api/models/{name}/revision/", f"/{name}/resolve/"):
                if path.startswith(address):
                    revision, _, file = path.removeprefix(address).partition("/")
                    if revision not in ("main", COMMIT):
                        return self._refuse(404, "RevisionNotFound")
                    if address.startswith("/api"):
                        return self._describe(name, repository)
                    return self._resolve(name, repository, file)
        private = any(one.access == "private" for one in self.hub.repositories.values())
        return self._refuse(401 if private else 404, "RepoNotFound")

    def _describe(self, name: str, repository: Repository) -> None:
        names = [{"rfilename": file} for file in repository.files]
        body = json.dumps({"id": name, "sha": COMMIT, "siblings": names}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _resolve(self, name: str, repository: Repository, file: str) -> None:
        if repository.access == "gated":
            return self._refuse(403, "GatedRepo")
        if file not in repository.files:
            return self._refuse(404, "EntryNotFound", {"X-Repo-Commit": COMMIT})
        content = repository.files[file]
        fault = repository.faults.get(file, "")
        if fault == "cut once" and self.command == "GET":
            del repository.faults[file]
        if fault.isdigit():
            return self._refuse(int(fault), "")
        if file in repository.large:
            etag = hashlib.sha256(content).hexdigest()
        else:
            etag = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
        return self._send(content, fault, {"X-Repo-Commit": COMMIT, "ETag": f'"{etag}"'})

    def _send(self, content: bytes, fault: str, headers: dict[str, str]) -> None:
        begin = 0
        if (wanted := self.headers.get("Range")) and fault != "unannounced":
            begin = int(wanted.removeprefix("bytes=").split("-")[0])
            if begin >= len(content):
                return self._refuse(416, "")
            headers["Content-Range"] = f"bytes {begin}-{len(content) - 1}/{len(content)}"
        body = content[begin:]
        if fault == "changed":
            body = bytes(byte ^ 1 for byte in body)
        self.send_response(206 if begin else 200)
        for key, value in headers.items():
            self.send_header(key, value)
        if fault != "unannounced":
            self.send_header("Content-Length", str(len(body) + 10 * (fault == "longer")))
        self.end_headers()
        if self.command == "HEAD":
            return None
        if fault == "cut" and begin:
            body = b""
        elif fault in ("cut", "cut once", "unannounced"):
            body = body[: len(body) // 2]
        self.wfile.write(body)
        self.close_connection = True
        return None

    def _refuse(self, status: int, code: str, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"X-Error-Code": code, **(headers or {})}.items():
            self.send_header(key, value)
        self.send_header("Content-Length", "0")
        self.end_headers()
