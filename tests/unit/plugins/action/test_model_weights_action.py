# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The host is this machine: what the action asks it is run by a real shell; only the module is played."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import pytest
import yaml
from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "fakes"))

from http_weights_server import WeightsServer

from ansible_collections.baremetal.llm.plugins.action import model_weights
from ansible_collections.baremetal.llm.plugins.module_utils import progress

ROOT = Path(__file__).resolve().parents[4]
MODEL = "acme/tiny"
UNCHANGED = {"changed": False, "path": "(path)", "sources": [], "files_fetched": 0, "invocation": {"module_args": {}}}
FORECAST = {**UNCHANGED, "changed": True, "files_fetched": 1, "sources": [{"source": "hub"}]}
DONE = {**FORECAST, "diff": {"before": "", "after": "x"}, "findings": [], "seconds": 2.5}
RUNNING = '{"started": true, "finished": false, "ansible_job_id": "j1.2"}'


class Host:
    """Plays the module, keeps its job's file and progress, and counts what the action asks for."""

    def __init__(self, folder):
        self.path = folder / "models" / MODEL / ("0" * 40)
        self.job_file = folder / "async" / "j1.2"
        self.progress_file = self.path.parent / ".fetch" / "progress.json"
        for place in (self.job_file.parent, self.progress_file.parent):
            place.mkdir(parents=True)
        self.forecast = {**FORECAST, "path": str(self.path)}
        self.result = DONE
        # What happens before each look: a function, or a failure to be raised in its place.
        self.events = []
        self.asked = []
        self.lines = []
        self.resets = 0

    def execute(self, **call):
        name, task = call.get("module_name") or "model_weights", self.task
        self.asked.append((name, task.check_mode, bool(call.get("wrap_async")), call["module_args"]))
        if name == "ansible.legacy.async_status":
            assert call["module_args"] == {"jid": "j1.2", "mode": "status", "_async_dir": str(self.job_file.parent)}
            return {**json.loads(self.job_file.read_text()), "finished": True, "ansible_job_id": "j1.2"}
        if call.get("wrap_async"):
            # With 0 the wrapper would kill the job after 5 seconds.
            assert task.async_val > 365 * 86400
            self.job_file.write_text(RUNNING)
            return {"started": True, "finished": False, "results_file": str(self.job_file), "changed": True}
        return dict(self.forecast if task.check_mode else self.result)

    def command(self, script):
        if self.events and "echo baremetal" not in script.partition(";")[0]:
            event = self.events.pop(0)
            if isinstance(event, Exception):
                raise event
            event()
        done = subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True, check=True)
        return {"stdout": done.stdout}

    def end(self, result=None):
        self.job_file.write_text(json.dumps(result or self.result))
        self.progress_file.unlink(missing_ok=True)

    def write(self, age=0.0, **facts):
        facts = {
            "updated": time.time() - age,
            "bytes_total": 5_300_000_000,
            "bytes_done": 1_200_000_000,
            "bytes_per_second": 104_000_000,
            "seconds_left": 39,
            "source": "http https://mirror.example/",
            "retries": 0,
            **facts,
        }
        self.progress_file.write_text(json.dumps(facts) + "\n")

    def run(self, check_mode=False, async_val=0, no_log=False, **arguments):
        arguments = {"lock": {"model": MODEL}, "root": str(self.path.parents[2]), "token_file": "secret", **arguments}
        self.task = task = mock.MagicMock(async_val=async_val, args=arguments, check_mode=check_mode, no_log=no_log)
        connection = mock.MagicMock(always_pipeline_modules=False, has_native_async=False)
        connection.reset.side_effect = lambda: setattr(self, "resets", self.resets + 1)
        action = model_weights.ActionModule(
            task, connection, mock.MagicMock(), mock.MagicMock(), mock.MagicMock(), mock.MagicMock()
        )
        action._display = mock.MagicMock()
        action._display.display.side_effect = self.lines.append
        with (
            mock.patch.object(model_weights.ActionModule, "_execute_module", side_effect=self.execute),
            mock.patch.object(model_weights.ActionModule, "_low_level_execute_command", side_effect=self.command),
            mock.patch.object(model_weights.ActionModule, "_remove_tmp_path"),
            mock.patch.multiple(
                model_weights,
                FIRST_STEPS=1,
                STEPS=1,
                FIRST_STEP_SECONDS="0.01",
                STEP_SECONDS="0.01",
                PAUSE_SECONDS=0.01,
            ),
        ):
            try:
                return action.run(task_vars={"inventory_hostname": "engine-1"})
            finally:
                # The executor would poll once more, and the next task would only be checked.
                assert (task.async_val, task.check_mode) == (async_val, check_mode)
                assert task.args == arguments

    def calls(self):
        return [
            f"{name.rpartition('.')[2]}{' check' if check else ''}{' async' if wrap else ''}"
            for name, check, wrap, dummy in self.asked
        ]


@pytest.fixture
def host(tmp_path):
    return Host(tmp_path)


# Which way the module is run


def test_a_published_model_costs_one_start_and_no_question(host):
    host.forecast = {**UNCHANGED, "warnings": ["w"]}
    assert host.run() == {**UNCHANGED, "warnings": ["w"]}
    assert host.calls() == ["model_weights check"]
    assert host.lines == []


def test_what_cannot_begin_fails_at_once(host):
    host.forecast = {"failed": True, "msg": "not enough space", "findings": [{"problem": "disk_space"}]}
    assert host.run() == host.forecast
    assert host.calls() == ["model_weights check"]


def test_a_link_alone_is_no_job(host):
    host.forecast = {**FORECAST, "files_fetched": 0}
    assert host.run() == DONE
    assert host.calls() == ["model_weights check", "model_weights"]


def test_to_hash_pieces_takes_as_long_as_a_transfer(host):
    host.forecast = {**host.forecast, "files_fetched": 0}
    host.events = [lambda: host.write(phase="pieces"), host.end]
    host.run(piece_bytes=1 << 24)
    assert host.calls() == ["model_weights check", "model_weights async", "async_status"]


def test_files_are_read_once(host):
    """By the job. The look before it leaves alone what it would have to read; whoever asks for check mode gets it."""
    host.events = [host.write, host.end]
    host.run()
    told = [(check, arguments.get("read_in_check_mode")) for name, check, dummy, arguments in host.asked[:2]]
    assert told == [(True, False), (False, None)]
    host.asked.clear()
    host.run(check_mode=True)
    assert [arguments.get("read_in_check_mode") for dummy, dummy2, dummy3, arguments in host.asked] == [None]


def test_what_was_hashed_is_written_down(host):
    # As the module answers in check mode when only the record is old.
    host.forecast = {**UNCHANGED, "sources": [{"source": "hub"}]}
    host.run()
    assert host.calls() == ["model_weights check", "model_weights"]


@pytest.mark.parametrize(
    ("how", "way"),
    [
        ({"progress": False}, "model_weights"),
        ({"progress": "no"}, "model_weights"),
        ({"no_log": True}, "model_weights"),
        ({"check_mode": True}, "model_weights check"),
        ({"async_val": 366 * 86400}, "model_weights async"),
    ],
)
def test_unwatched_the_module_runs_as_ever(host, how, way):
    host.run(**how)
    assert host.calls() == [way]
    assert all("progress" not in arguments for *dummy, arguments in host.asked)
    assert host.lines == []


def test_progress_is_a_boolean(host):
    with pytest.raises(AnsibleActionFail, match="progress"):
        host.run(progress="maybe")


def test_a_full_check_reads_once(host):
    host.events = [host.write, host.end]
    host.run(verify="full")
    assert host.calls() == ["model_weights async", "async_status"]
    assert len(host.lines) == 1


# Watching


def test_lines_then_the_modules_own_result(host):
    host.events = [host.write, lambda: host.write(bytes_done=2_000_000_000), host.end]
    assert host.run() == DONE
    assert host.calls() == ["model_weights check", "model_weights async", "async_status"]
    assert host.lines == [
        "  ... 0 s: engine-1: acme/tiny: 1.2 GB of 5.3 GB (22 %), 104 MB/s, 39 s left, from http https://mirror.example/",
        "  ... 0 s: engine-1: acme/tiny: 2 GB of 5.3 GB (37 %), 104 MB/s, 39 s left, from http https://mirror.example/",
    ]
    assert not host.job_file.exists()


def test_a_failure_of_the_module_is_its_own_too(host):
    failure = {"failed": True, "changed": False, "msg": "1 of 1 files could not be had", "findings": [{"problem": "x"}]}
    host.events = [host.write, lambda: host.end(failure)]
    assert host.run() == failure
    assert not host.job_file.exists()


def test_the_end_is_not_waited_for(host):
    host.job_file.write_text(json.dumps(DONE))
    script = progress.wait_script(str(host.job_file), str(host.progress_file), 100, "1")
    began = time.monotonic()
    answer = progress.read_answer(host.command(script)["stdout"])
    assert time.monotonic() - began < 0.9
    assert (answer.running, answer.progress) == (False, None)


def test_one_question_lasts_its_steps(host):
    host.job_file.write_text(RUNNING)
    script = progress.wait_script(str(host.job_file), str(host.progress_file), 3, "0.1")
    began = time.monotonic()
    assert progress.read_answer(host.command(script)["stdout"]).running
    assert 0.3 <= time.monotonic() - began < 2


def test_paths_are_quoted(host):
    place = "/tmp/a b'; echo stolen #"
    done = host.command(progress.wait_script(place, place, 1, "0.01") + "; " + progress.remove_script(place))
    assert "stolen" not in done["stdout"]
    assert shlex.quote(place) in progress.remove_script(place)


def test_what_a_killed_run_left_is_not_shown(host):
    host.events = [lambda: host.write(age=60), host.end]
    host.run()
    assert host.lines == [
        "  ... 0 s: engine-1: acme/tiny: no transfer now: files are checked or published, or another run is waited for"
    ]


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        (
            {"bytes_per_second": 0, "seconds_left": None, "retries": 3},
            "nothing in the last seconds, from .*, 3 retries",
        ),
        ({"seconds_left": 7260}, ", 2 h 01 min left,"),
        ({"seconds_left": 1800}, ", 30 min left,"),
        ({"source": "a\x1b[2J\nb"}, r"from a \[2J b$"),
        ({"source": "x" * 1000}, r"from x{200}\.\.\.$"),
        ({"bytes_total": 0, "bytes_done": 0}, r"\(100 %\)"),
        ({"bytes_done": "many", "source": None}, "0 bytes of"),
        ({"phase": "verify", "source": None}, r": read 1\.2 GB of 5\.3 GB \(22 %\), 104"),
        ({"phase": "pieces", "source": None}, r": read for the piece manifest 1\.2 GB of"),
        ({"phase": "pieces", "bytes_total": 0, "bytes_done": 0}, "no transfer now"),
    ],
)
def test_words(host, facts, words):
    host.events = [lambda: host.write(**facts), host.end]
    host.run()
    (line,) = host.lines
    assert re.search(words, line), line
    assert "secret" not in line


# When something breaks


def test_a_broken_network_is_waited_for(host):
    host.events = [host.write, AnsibleConnectionFailure("gone"), AnsibleConnectionFailure("gone"), host.end]
    assert host.run() == DONE
    assert [line.partition("tiny: ")[2] for line in host.lines[1:]] == [
        "cannot be reached for 0 s, its job goes on without us"
    ] * 2
    assert host.resets == 2


def test_but_not_for_ever(host):
    host.events = [AnsibleConnectionFailure("gone")] * 3
    with (
        mock.patch.object(model_weights, "UNREACHABLE_SECONDS", -1),
        pytest.raises(AnsibleConnectionFailure, match="gone"),
    ):
        host.run()
    assert host.job_file.exists()


def test_a_job_that_was_killed_is_noticed(host):
    host.events = []
    with (
        mock.patch.object(model_weights, "SILENT_SECONDS", 0),
        pytest.raises(AnsibleActionFail, match="ended without a result.*is kept, run the playbook again"),
    ):
        host.run()
    assert not host.job_file.exists()


def test_a_job_that_is_only_silent_is_not(host):
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", "j1.2"])
    try:
        host.events = [lambda: None] * 8 + [host.end]
        with mock.patch.object(model_weights, "SILENT_SECONDS", 0):
            assert host.run() == DONE
    finally:
        process.kill()
        process.wait()


def test_a_host_that_talks_nonsense(host):
    with (
        mock.patch.object(host, "command", lambda *dummy: {"stdout": "sudo: a password is required"}),
        pytest.raises(AnsibleActionFail, match="does not say how far"),
    ):
        host.run()


# All of it, with the real module and the real wrapper


def test_a_playbook_shows_lines_and_the_same_result_twice(tmp_path):
    server = WeightsServer({"config.json": b"{" + b" " * 300_000 + b"}"})
    server.answers["config.json"] = [server.paced(75_000)]
    digest = hashlib.sha256(server.files["config.json"]).hexdigest()
    lock = {
        "format_version": 1,
        "model": MODEL,
        "revision": "1" * 40,
        "source": {"type": "folder"},
        "total_bytes": 300_002,
        "files": [{"path": "config.json", "size": 300_002, "sha256": digest}],
    }
    task = {
        "name": "Weights",
        "baremetal.llm.model_weights": {
            "lock": lock,
            "sources": [{"type": "http", "url": server.url}],
            "root": str(tmp_path / "models"),
            "owner": str(os.getuid()),
            "group": str(os.getgid()),
            "reserve_bytes": 0,
            "connections": 1,
        },
    }
    play = {"hosts": "localhost", "connection": "local", "gather_facts": False, "tasks": [task]}
    (tmp_path / "play.yml").write_text(yaml.safe_dump([play]))
    (tmp_path / "ansible.cfg").touch()
    environment = {
        **os.environ,
        "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".cache" / "collections"),
        "ANSIBLE_ASYNC_DIR": str(tmp_path / "async"),
        "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.default",
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_CONFIG": str(tmp_path / "ansible.cfg"),
    }
    environment.pop("ANSIBLE_FORCE_COLOR", None)
    command = [str(Path(sys.executable).parent / "ansible-playbook"), "-v", "-i", "localhost,", "play.yml"]
    command += ["-e", f"ansible_python_interpreter={sys.executable}"]
    try:
        outputs = [
            subprocess.run(
                command,
                cwd=tmp_path,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
            ).stdout
            for dummy in range(2)
        ]
    finally:
        server.close()
    first, second = outputs
    assert "changed: [localhost] => {" in first, first
    assert f"localhost: {MODEL}: " in first, first
    assert " of 300 kB (" in first, first
    assert '"bytes_fetched": 300002' in first, first
    assert "ansible_job_id" not in first
    assert "ok: [localhost] => {" in second, second
    assert " of 300 kB (" not in second
    assert os.listdir(tmp_path / "async") == []
