"""A Hugging Face Hub of data sets on loopback, which huggingface_hub's own client talks to: it reads and commits."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import unquote

import huggingface_hub
import pytest
import yaml
from huggingface_hub import constants

Files = dict[str, bytes]
MAIN = "main"


class LoopbackHub:
    """The hub, as a context.

    Attributes:
        commits: files by commit, by the data set's name; `branches`: commits by branch, likewise.
        private: names that only `token` opens; `gated`: names that nothing does; `cards`: what their cards say.
        asked: (method, path, headers) of each request; `down`: whether each is answered with 503.
    """

    def __init__(self, token: str = "hf_planted") -> None:
        self.token = token
        self.commits: dict[str, dict[str, Files]] = {}
        self.branches: dict[str, dict[str, str]] = {}
        self.cards: dict[str, dict[str, Any]] = {}
        self.private: set[str] = set()
        self.gated: set[str] = set()
        self.blobs: dict[str, bytes] = {}
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        self.down = False
        hub = self
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> LoopbackHub:
        Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def commit(self, name: str, files: Mapping[str, bytes], branch: str = MAIN) -> str:
        """Add a commit with these files and those that were there."""
        held = self.files(name, branch) if name in self.branches else {}
        sha = hashlib.sha1(f"{name} {branch} {len(self.commits.get(name, ()))}".encode()).hexdigest()
        self.commits.setdefault(name, {})[sha] = held | dict(files)
        self.branches.setdefault(name, {})[branch] = sha
        return sha

    def files(self, name: str, branch: str = MAIN) -> Files:
        return self.commits[name].get(self.branches[name].get(branch, ""), {})

    def use(self, patch: pytest.MonkeyPatch, token: str | None = None) -> None:
        """This process's client asks this hub."""
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            patch.delenv(name, raising=False)
            patch.delenv(name.upper(), raising=False)
        patch.setattr(constants, "ENDPOINT", self.endpoint)
        patch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", self.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        )
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setenv("HF_TOKEN", token or "")
        huggingface_hub.HfFileSystem.clear_instance_cache()
        huggingface_hub.close_session()

    def read(self, name: str) -> int:
        """Bytes of files that were asked for by ranges, of one data set."""
        total = 0
        for method, path, headers in self.asked:
            if method == "GET" and f"/datasets/{name}/resolve/" in path:
                start, end = headers["range"].removeprefix("bytes=").split("-")
                total += int(end) - int(start) + 1
        return total


class _Handler(BaseHTTPRequestHandler):
    hub: LoopbackHub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        parts = self._begin()
        if parts is None:
            return
        name, action, revision, rest = parts
        sha = self.hub.branches[name].get(revision, revision)
        if sha not in self.hub.commits[name]:
            return self._fail(404, "RevisionNotFound")
        files = self.hub.commits[name][sha]
        if action == "revision":
            siblings = [{"rfilename": path} for path in files]
            info = {"id": name, "sha": sha, "siblings": siblings, "cardData": self.hub.cards.get(name, {})}
            return self._answer(info | {"private": name in self.hub.private, "tags": [], "downloads": 0})
        if action == "tree":
            return self._answer(list(_tree(files, rest, "recursive=true" in self.path.lower())))
        if rest not in files:
            return self._fail(404, "EntryNotFound")
        data, total = files[rest], len(files[rest])
        if "range" in self.headers:
            start, end = self.headers["range"].removeprefix("bytes=").split("-")
            data = data[int(start) : int(end) + 1]
            return self._send(206, data, {"Content-Range": f"bytes {start}-{end}/{total}", "X-Repo-Commit": sha})
        return self._send(200, data, {"X-Repo-Commit": sha, "ETag": f'"{hashlib.sha1(data).hexdigest()}"'})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path == "/api/validate-yaml":
            front = yaml.safe_load(json.loads(body)["content"].split("---")[1])
            return self._answer({"errors": [] if isinstance(front, dict) else [{"message": "no"}], "warnings": []})
        if self.path == "/api/repos/create":
            self._log()
            if self.headers.get("authorization") != f"Bearer {self.hub.token}":
                return self._fail(401, "")
            asked = json.loads(body)
            name = f"{asked.get('organization')}/{asked['name']}"
            if name in self.hub.branches:
                return self._answer({"url": f"{self.hub.endpoint}/datasets/{name}", "error": "it is there"}, 409)
            self.hub.commit(name, {})
            if asked.get("private") or asked.get("visibility") == "private":
                self.hub.private.add(name)
            return self._answer({"url": f"{self.hub.endpoint}/datasets/{name}", "name": name})
        parts = self._begin()
        if parts is None:
            return
        name, action, _, _ = parts
        if action == "preupload":
            files = [
                {"path": f["path"], "uploadMode": "lfs" if f["path"].endswith(".parquet") else "regular"}
                for f in json.loads(body)["files"]
            ]
            return self._answer({"files": [file | {"shouldIgnore": False} for file in files]})
        if action == "info":  # .git/info/lfs/objects/batch
            objects = [
                one | {"actions": {"upload": {"href": f"{self.hub.endpoint}/blobs/{one['oid']}"}}}
                for one in json.loads(body)["objects"]
            ]
            return self._answer({"transfer": "basic", "objects": objects})
        return self._commit(name, [json.loads(line) for line in body.splitlines()])

    def do_PUT(self) -> None:
        self._log()
        data = self.rfile.read(int(self.headers["Content-Length"]))
        self.hub.blobs[hashlib.sha256(data).hexdigest()] = data
        self._send(200, b"", {})

    def _commit(self, name: str, lines: list[dict[str, Any]]) -> None:
        files: Files = {}
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.blobs[value["oid"]]
            elif line["key"] == "deletedFile":
                del self.hub.files(name)[value["path"]]
        sha = self.hub.commit(name, files)
        url = f"{self.hub.endpoint}/datasets/{name}/commit/{sha}"
        self._answer({"success": True, "commitOid": sha, "commitUrl": url, "hookOutput": ""})

    def _begin(self) -> tuple[str, str, str, str] | None:
        """(data set, action, revision, path) of a request; None where it was refused."""
        self._log()
        if self.hub.down:
            return self._fail(503, "")
        parts = [unquote(part) for part in self.path.split("?")[0].strip("/").removeprefix("api/").split("/")]
        name = "/".join(parts[1:3]).removesuffix(".git")
        action, revision = parts[3:5] if len(parts) > 4 else ("revision", MAIN)
        if name in self.hub.gated:
            return self._fail(403, "GatedRepo")
        allowed = self.headers.get("authorization") == f"Bearer {self.hub.token}"
        if parts[0] != "datasets" or name not in self.hub.branches or (name in self.hub.private and not allowed):
            return self._fail(401, "RepoNotFound")
        if self.command == "POST" and not allowed:
            return self._fail(403, "")
        return name, action, revision, "/".join(parts[5:])

    def _log(self) -> None:
        self.hub.asked.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}))

    def _answer(self, value: object, status: int = 200) -> None:
        self._send(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | dict(headers)).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _fail(self, status: int, code: str) -> None:
        self._send(status, b"", {"X-Error-Code": code, "X-Error-Message": "no"} if code else {})

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


def _tree(files: Files, folder: str, recursive: bool) -> Any:
    prefix, folders = f"{folder}/" if folder else "", set()
    for path, data in sorted(files.items()):
        if not path.startswith(prefix):
            continue
        parts = path.removeprefix(prefix).split("/")
        for end in range(1, len(parts) if recursive else min(2, len(parts))):
            above = prefix + "/".join(parts[:end])
            if above not in folders:
                folders.add(above)
                yield {"type": "directory", "path": above, "size": 0, "oid": "d" * 40}
        if recursive or len(parts) == 1:
            yield {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
