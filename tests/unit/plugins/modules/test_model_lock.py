# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The module as Ansible runs it: arguments in, one JSON document out."""

from __future__ import annotations

import getpass
import json
import stat
import sys
from pathlib import Path

import pytest
import yaml

from ansible_collections.baremetal.llm.plugins.module_utils.lock import read_lock
from ansible_collections.baremetal.llm.plugins.modules import model_lock, model_weights

testing = pytest.importorskip("ansible.module_utils.testing")

TESTS = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(TESTS / "fakes"), str(TESTS / "unit" / "plugins" / "module_utils")]

from hub_server import FakeHub  # noqa: E402  (found through the path above)
from s3_server import FakeS3  # noqa: E402
from weights_sample import safetensors  # noqa: E402

FILES = {"config.json": b"{}", "model.safetensors": safetensors([("w", "BF16", [6])]), "merges.txt": b"a b"}


@pytest.fixture
def run(capsys):
    def run(check=False, module=model_lock, **arguments):
        arguments.update(_ansible_check_mode=check, _ansible_diff=True)
        with testing.patch_module_args(arguments), pytest.raises(SystemExit) as caught:
            module.main()
        output = capsys.readouterr()
        result = json.loads(output.out)
        result["everything"] = output.out + output.err
        assert bool(result.get("failed")) == bool(caught.value.code)
        return result

    return run


@pytest.fixture
def hub():
    pytest.importorskip("huggingface_hub")
    with FakeHub() as hub:
        hub.add("demo/tiny", FILES, card={"license": "apache-2.0"})
        yield hub


@pytest.fixture
def arguments(tmp_path, hub):
    source = {"type": "hub", "model": "demo/tiny", "endpoint": hub.url}
    return {"path": str(tmp_path / "locks/tiny.yml"), "source": source}


def test_lock_and_update(run, hub, arguments, tmp_path):
    path = tmp_path / "locks/tiny.yml"
    forecast = run(check=True, **arguments)
    assert forecast["changed"] is True and not path.parent.exists()
    first = run(**arguments)
    assert first["changed"] is True and first["diff"] == forecast["diff"]
    assert yaml.safe_load(path.read_text()) == first["lock"] == read_lock(str(path)).as_dict()
    assert first["total_bytes"] == sum(map(len, FILES.values()))
    again = run(**arguments)
    assert again["changed"] is False and "prepared" not in again["diff"]
    assert again["changes"]["files_added"] == []

    files = {"config.json": b"{ }", "model.safetensors": FILES["model.safetensors"], "added.json": b"{}"}
    commit = hub.add("demo/tiny", files, card={"license": "llama3"}, gated="auto")
    hub.grant("hf_secret", "demo/tiny")
    (tmp_path / "token").write_text("hf_secret\n")
    arguments["token_file"] = str(tmp_path / "token")
    forecast = run(check=True, **arguments)
    assert read_lock(str(path)).revision == first["revision"]
    assert forecast["changed"] is True
    second = run(**arguments)
    assert second["diff"] == forecast["diff"]
    assert second["diff"]["prepared"] == (
        "demo/tiny:\n"
        f"  revision: {first['revision']} -> {commit}\n"
        "  license: apache-2.0 -> llama3\n"
        "  gated: (none) -> auto\n"
        "  + added.json (2 bytes)\n"
        "  - merges.txt (3 bytes)\n"
        "  ~ config.json (2 bytes -> 3 bytes)\n"
        "  5 bytes in added and changed files\n"
    )
    assert second["changes"]["license"] == {"before": "apache-2.0", "after": "llama3"}
    assert second["lock"]["source"] == {"type": "hub", "revision": "main", "endpoint": hub.url}
    assert "hf_secret" not in second["everything"] + path.read_text()


@pytest.mark.parametrize("name", ["tiny.yml", "tiny.json"])
def test_what_was_locked_is_fetched_from_the_hub(run, hub, arguments, tmp_path, name):
    hub.add("demo/tiny", FILES, gated="manual", card={"license": "apache-2.0"})
    hub.grant("hf_secret", "demo/tiny")
    (tmp_path / "token").write_text("hf_secret")
    lock_file = tmp_path / name
    run(**{**arguments, "path": str(lock_file)}, token_file=str(tmp_path / "token"))
    result = run(
        module=model_weights,
        # As the role reads it, whatever form it has.
        lock=yaml.safe_load(lock_file.read_text()),
        sources=[{"type": "hub", "endpoint": hub.url}],
        token_file=str(tmp_path / "token"),
        root=str(tmp_path / "models"),
        owner=getpass.getuser(),
        group=str(tmp_path.stat().st_gid),
        reserve_bytes=0,
    )
    assert {path: (Path(result["path"]) / path).read_bytes() for path in FILES} == FILES


def test_json_and_mode(run, arguments, tmp_path):
    arguments.update(path=str(tmp_path / "tiny.json"), mode="0600")
    result = run(**arguments)
    assert json.loads((tmp_path / "tiny.json").read_text()) == result["lock"]
    assert stat.S_IMODE((tmp_path / "tiny.json").stat().st_mode) == 0o600
    assert run(**arguments)["changed"] is False
    assert "octal digits" in run(**{**arguments, "mode": "rw"})["msg"]


def test_a_refusal_writes_nothing(run, hub, arguments, tmp_path):
    hub.add("demo/tiny", FILES, gated="manual")
    result = run(**arguments)
    assert result["failed"] and "accept its conditions" in result["msg"]
    assert result["problems"] and not (tmp_path / "locks").exists()
    arguments["token_file"] = str(tmp_path / "absent")
    assert "token_file" in run(**arguments)["msg"]


def test_patience(run, hub, arguments):
    hub.fail("/api/", 429, {"Retry-After": "5"})
    assert "HTTP 429, and asks to wait 5 s" in run(retry_seconds=1, **arguments)["msg"]


def test_ca_file(run, arguments, tmp_path):
    assert "ca_file /absent cannot be read" in run(ca_file="/absent", **arguments)["msg"]
    (tmp_path / "ca.pem").write_text("no certificate")
    assert "no certificate in PEM form" in run(ca_file=str(tmp_path / "ca.pem"), **arguments)["msg"]


def test_without_the_library(run, arguments, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert "huggingface_hub" in run(**arguments)["msg"]


def test_notes_are_warnings(run, hub, arguments, monkeypatch):
    # Where a warning goes depends on whether anything of a controller was imported in this process.
    warned = []
    monkeypatch.setattr(model_lock.AnsibleModule, "warn", lambda self, text: warned.append(text))
    hub.add("demo/tiny", {**FILES, "config.json": b'{"auto_map": {"AutoModel": "modeling_x.X"}}'})
    result = run(**arguments)
    assert "modeling_x.py" in result["notes"][0]
    assert ["modeling_x.py" in text for text in warned] == [True]


def test_the_general_token_is_the_hubs(run, hub, tmp_path):
    (tmp_path / "token").write_text("hf_secret")
    (tmp_path / "own").write_text("own")
    commit = hub.repositories["demo/tiny"].references["main"]
    source = {
        "type": "http",
        "model": "demo/tiny",
        "url": f"{hub.url}/demo/tiny/resolve/{commit}/",
        "files": sorted(FILES),
        "checksums": "",
    }
    token_file = str(tmp_path / "token")
    assert run(path=str(tmp_path / "x.yml"), source=source, token_file=token_file)["changed"] is True
    assert {seen.token for seen in hub.requests} == {""}
    hub.grant("own")
    source["token_file"] = str(tmp_path / "own")
    assert run(path=str(tmp_path / "x.yml"), source=source, token_file=token_file)["changed"] is False
    assert {seen.token for seen in hub.seen("/resolve/")} == {"", "own"}


def test_a_store(run, tmp_path):
    (tmp_path / "credentials").write_text("[site]\naws_access_key_id = AK\naws_secret_access_key = hunter2\n")
    with FakeS3() as store:
        store.keys["AK"] = "hunter2"
        store.buckets["models"] = {f"tiny/{path}": data for path, data in FILES.items()}
        source = {"type": "s3", "model": "demo/tiny", "endpoint": store.url, "bucket": "models", "prefix": "/tiny/"}
        arguments = {"path": str(tmp_path / "x.yml"), "source": source}
        assert "AccessDenied" in run(**arguments)["msg"]
        source.update(credentials_file=str(tmp_path / "credentials"), credentials_profile="site")
        result = run(**arguments)
    assert result["lock"]["tensors"]["parameters"] == 6
    assert "hunter2" not in result["everything"]


@pytest.mark.parametrize(
    ("source", "missing"), [({"type": "folder"}, "path"), ({"type": "http"}, "url"), ({"type": "s3"}, "bucket")]
)
def test_what_a_source_needs(run, source, missing):
    assert missing in run(path="/nowhere/x.yml", source={"model": "demo/tiny", **source})["msg"]
