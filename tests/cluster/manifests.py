"""Kubernetes manifests, and schemas that know no field but their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

ROOT = Path(__file__).parents[2]
KUBERAY = ROOT / "cluster" / "kuberay"
SCHEMAS = ROOT.parent / "shared" / "schemas"


def manifests(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((KUBERAY / name).read_text()))


def kuberay_schema(name: str) -> dict[str, Any]:
    """A published schema of KubeRay's, closed. Skips the test where the schemas aren't there."""
    path = SCHEMAS / f"{name}.v1.json"
    if not path.exists():
        pytest.skip(f"KubeRay's schemas are not there: {path}")
    return closed(json.loads(path.read_text())["schema"])


def closed(schema: Any) -> Any:
    """`schema` with all objects that list their fields refusing others, as the API server does when it is strict."""
    if isinstance(schema, list):
        return [closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    # Below `properties`, keys are names of fields, and a field may be called as a keyword is.
    made = {
        key: {name: closed(one) for name, one in value.items()} if key == "properties" else closed(value)
        for key, value in schema.items()
    }
    is_open = made.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in made
    if "properties" in made and not is_open:
        made["additionalProperties"] = False
    return made


def problems(schema: dict[str, Any], manifest: Any) -> list[str]:
    found = Draft202012Validator(schema).iter_errors(manifest)
    return [f"{'.'.join(map(str, one.absolute_path))}: {one.message[:300]}" for one in found]
