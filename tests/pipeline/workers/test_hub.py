"""Models of the hub, from a small hub on loopback that the real client talks to."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from adafv.pipeline.errors import UsageError
from adafv.pipeline.options import JobOptions
from adafv.pipeline.outputs.recipe import recipe_of, settle_recipe
from adafv.pipeline.setup import with_commit
from adafv.pipeline.store.output import open_output
from adafv.pipeline.store.storage import Storage
from adafv.pipeline.workers.hub import downloaded, is_hub_id

OLD, NEW = "a" * 40, "b" * 40
REVISIONS = {"main": NEW, "v1": OLD, OLD: OLD, NEW: NEW}
FILES = ["config.json", "model.safetensors", "original/consolidated.safetensors", "pytorch_model.bin", "code.py"]


class Hub(BaseHTTPRequestHandler):
    """`org/model` at two commits, `org/gated` and `org/bare`, which has no safetensors."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        parts = self.path.split("?")[0].strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            name, action, revision = "/".join(parts[2:4]), *(parts[4:6] or ("revision", "main"))
        else:
            name, action, revision = "/".join(parts[:2]), *parts[2:4]
        if name not in ("org/model", "org/gated", "org/bare"):
            self._fail(401, "RepoNotFound")
        elif revision not in REVISIONS:
            self._fail(404, "RevisionNotFound")
        elif action == "revision":
            self._answer({"id": name, "sha": REVISIONS[revision], "siblings": []})
        elif action == "tree":
            files = [file for file in FILES if name != "org/bare" or not file.endswith("safetensors")]
            self._answer([{"type": "file", "path": file, "size": 2, "oid": "c" * 40} for file in files])
        elif name == "org/gated":
            self._fail(403, "GatedRepo")
        else:
            self._answer({}, revision)

    def _answer(self, value: object, commit: str = "") -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"etag"')
        self.send_header("X-Repo-Commit", commit)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def _fail(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", "no")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


SCRIPT = """
import json, sys
from adafv.pipeline.workers.hub import commit_of, downloaded
from adafv.pipeline.workers.model import at_version
answers = []
for name, revision in json.loads(sys.argv[1]):
    try:
        commit = commit_of(name, revision)
        folder = downloaded(at_version(name, None, commit))
        answers.append([commit, sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())])
    except OSError as error:
        answers.append(str(error))
print(json.dumps(answers))
"""
ASKED = [
    ("org/model", None),
    ("org/model", "v1"),
    ("org/model", "v9"),
    ("org/gated", None),
    ("org/nothing", None),
    ("org/bare", None),
]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[tuple[str, str | None], object]]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever, daemon=True).start()
    plain = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    hub = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(tmp_path_factory.mktemp("hub"))}
    out = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(ASKED)],
        env={**plain, **hub, "HF_HUB_OFFLINE": "0", "HF_TOKEN": "hf_secret"},
        capture_output=True,
        text=True,
        check=True,
    )
    server.shutdown()
    assert "hf_secret" not in out.stdout + out.stderr
    yield dict(zip(ASKED, json.loads(out.stdout.splitlines()[-1]), strict=True))


def test_a_revision_is_pinned_to_its_commit_and_only_what_is_read_is_downloaded(answers):
    assert answers["org/model", None] == [NEW, ["config.json", "model.safetensors"]]
    assert answers["org/model", "v1"] == [OLD, ["config.json", "model.safetensors"]]


@pytest.mark.parametrize(
    ("asked", "advice"),
    [
        (("org/model", "v9"), "has no revision 'v9'; give a branch"),
        (("org/gated", None), "is gated: accept its terms"),
        (("org/nothing", None), "no model 'org/nothing' on the Hub; if it is private"),
        (("org/bare", None), "has no safetensors weights"),
    ],
)
def test_what_can_not_be_loaded_says_what_to_do(answers, asked, advice):
    assert advice in answers[asked]


def test_other_names_are_no_hub_ids(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("org/model").mkdir(parents=True)
    assert not any(map(is_hub_id, ("testbed", "s3://bucket/model", str(tmp_path), "org/model", "./gone", "/gone")))
    assert is_hub_id("org/other")
    assert downloaded(str(tmp_path)) is None and downloaded("org/other") is None


def test_a_revision_of_a_folder_is_refused(tmp_path):
    options = JobOptions(input=("x",), output="y", model=str(tmp_path), revision="main")
    with pytest.raises(UsageError, match=r"--revision is 'main', but --model .* isn't a hub id"):
        with_commit(options)


def test_another_commit_is_another_recipe(tmp_path):
    """Labels of two commits don't mix unless told. A recipe from before there were revisions is of any."""
    output = open_output(str(tmp_path), Storage())
    options = JobOptions(input=("x",), output=str(tmp_path), model="org/model", revision=OLD)
    assert recipe_of(options)["revision"] == OLD
    settle_recipe(output, options)
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "1.parquet").touch()
    settle_recipe(output, options)
    newer = JobOptions(input=("x",), output=str(tmp_path), model="org/model", revision=NEW)
    with pytest.raises(UsageError, match=f"revision was '{OLD}' and is '{NEW}'"):
        settle_recipe(output, newer)
    recipe = json.loads((tmp_path / "recipe.json").read_text())
    (tmp_path / "recipe.json").write_text(json.dumps({k: v for k, v in recipe.items() if k != "revision"}))
    settle_recipe(output, newer)
