# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""engine-probe against a real HTTP server on this machine."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path(__file__).parents[4] / "roles" / "host_tools" / "files" / "engine_probe.py"


def _load() -> Any:
    spec = importlib.util.spec_from_file_location("engine_probe", PROGRAM)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["engine_probe"] = module
    spec.loader.exec_module(module)
    return module


probe = _load()


class FakeEngine:
    """What the server answers; a test changes it while it runs."""

    def __init__(self) -> None:
        self.health_status = 200
        self.completion_status = 200
        self.completion_body: bytes = b'{"choices": [{"text": "x"}]}'
        self.hang_health = False
        self.hang_completion = False
        self.completion_seconds = 0.0
        self.tokens: int | None = 100
        self.moves_by_itself = False
        self.seen: list[tuple[str, str, bytes]] = []
        self.released = threading.Event()
        self.url = ""

    def answer(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        self.seen.append((handler.path, handler.headers.get("Authorization", ""), body))
        if handler.path == "/health":
            if self.hang_health:
                self.released.wait(30)
            self._send(handler, self.health_status, b"")
        elif handler.path == "/metrics":
            if self.moves_by_itself and self.tokens is not None:
                self.tokens += 7
            text = "" if self.tokens is None else f'vllm:generation_tokens_total{{engine="0"}} {self.tokens}.0\n'
            self._send(handler, 200, ("# HELP something\nother_total 5\n" + text).encode())
        else:
            if self.hang_completion:
                self.released.wait(30)
            time.sleep(self.completion_seconds)
            if self.completion_status == 200 and self.tokens is not None:
                self.tokens += 1
            self._send(handler, self.completion_status, self.completion_body)

    def completions(self) -> int:
        return sum(1 for seen in self.seen if seen[0] == "/v1/completions")

    @staticmethod
    def _send(handler: BaseHTTPRequestHandler, status: int, body: bytes) -> None:
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)


@pytest.fixture
def fake() -> Iterator[FakeEngine]:
    engine = FakeEngine()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._respond()

        def do_POST(self) -> None:
            self._respond()

        def _respond(self) -> None:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                engine.answer(self, self.rfile.read(int(self.headers.get("Content-Length", 0))))

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    engine.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield engine
    engine.released.set()
    server.shutdown()
    server.server_close()
    thread.join()


class FakeUnit:
    def __init__(self) -> None:
        self.present = "run-1"
        self.kills = 0
        self.fault = ""

    def run(self) -> str:
        if self.fault:
            raise OSError(self.fault)
        return self.present

    def kill(self) -> None:
        self.kills += 1


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "RETRY_SECONDS", 0.05)
    monkeypatch.setattr(probe, "HEALTH_TIMEOUT_SECONDS", 0.4)


Watch = tuple[Any, FakeUnit, list[str]]


@pytest.fixture
def watch(fake: FakeEngine) -> Watch:
    unit, said = FakeUnit(), list[str]()
    return probe.Watchdog(probe.Engine(fake.url, "tiny", ""), unit, 3, 0.4, said.append), unit, said


def look(watchdog: Any, times: int) -> None:
    for _count in range(times):
        watchdog.look()


class TestReady:
    def wait(
        self, fake: FakeEngine, timeout: float = 2, pid: int | None = None, say: Callable[[str], None] = print
    ) -> str:
        answer: str = probe.wait_until_ready(probe.Engine(fake.url, "tiny", "k3y"), timeout, pid, say)
        return answer

    def test_ready_after_health_and_a_completion_with_the_key(self, fake: FakeEngine) -> None:
        assert self.wait(fake) == ""
        path, key, body = fake.seen[-1]
        assert [seen[0] for seen in fake.seen] == ["/health", "/v1/completions"]
        assert (path, key) == ("/v1/completions", "Bearer k3y")
        assert json.loads(body) == {"model": "tiny", "prompt": "1", "max_tokens": 1, "temperature": 0}

    def test_waits_until_healthy(self, fake: FakeEngine) -> None:
        fake.health_status = 503
        threading.Timer(0.4, lambda: setattr(fake, "health_status", 200)).start()
        assert self.wait(fake) == ""
        assert len(fake.seen) > 3

    def test_waits_for_a_slow_first_completion(self, fake: FakeEngine) -> None:
        fake.completion_seconds = 0.8  # longer than a look at /health may take
        assert self.wait(fake) == ""
        assert fake.completions() == 1

    def test_healthy_without_completion_is_not_ready(self, fake: FakeEngine) -> None:
        fake.hang_completion = True
        start = time.monotonic()
        assert "not ready after 0.6 s: /v1/completions: timed out" in self.wait(fake, 0.6)
        assert time.monotonic() - start < 2

    @pytest.mark.parametrize("body", [b"", b"{}", b'{"choices": []}', b"[]"])
    def test_an_answer_that_is_no_completion_is_not_ready(self, fake: FakeEngine, body: bytes) -> None:
        fake.completion_body = body
        assert "no completion" in self.wait(fake, 0.2)

    @pytest.mark.parametrize(
        ("status", "words"), [(401, "refuses the API key"), (404, "does not serve this model"), (400, "does not take")]
    )
    def test_gives_up_at_once_where_waiting_does_not_help(self, fake: FakeEngine, status: int, words: str) -> None:
        fake.completion_status, fake.completion_body = status, b'{"error":\n "because"}'
        problem = self.wait(fake, 60)
        assert words in problem and '{"error": "because"}' in problem
        assert "\n" not in problem

    def test_gives_up_at_once_when_the_main_process_is_gone(self) -> None:
        gone = subprocess.Popen([sys.executable, "-c", ""])
        gone.wait()
        engine = probe.Engine("http://127.0.0.1:1", "tiny", "")
        assert f"main process ({gone.pid}) has ended" in probe.wait_until_ready(engine, 60, gone.pid, print)

    def test_waits_while_the_main_process_lives(self, fake: FakeEngine) -> None:
        fake.health_status = 503
        assert "not ready after 0.3 s: /health: HTTP 503" in self.wait(fake, 0.3, os.getpid())

    def test_says_from_time_to_time_that_it_waits(self, fake: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(probe, "REPORT_SECONDS", 0.1)
        fake.health_status = 503
        said: list[str] = []
        self.wait(fake, 0.5, say=said.append)
        assert said and "waiting for the engine" in said[0] and "HTTP 503" in said[0]

    def test_does_not_go_through_a_proxy(self, fake: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
        assert self.wait(fake) == ""


class TestWatch:
    def test_moving_counters_need_no_completion(self, fake: FakeEngine, watch: Watch) -> None:
        watchdog, unit, said = watch
        watchdog.look()
        asked = fake.completions()
        fake.moves_by_itself, fake.hang_completion = True, True
        look(watchdog, 5)
        assert fake.completions() == asked
        assert (unit.kills, said) == (0, ["the engine works"])

    def test_idle_engine_proves_itself_by_a_token_at_every_look(self, fake: FakeEngine, watch: Watch) -> None:
        watchdog, unit = watch[:2]
        look(watchdog, 4)
        assert fake.completions() == 4  # its own token is not taken for progress at the next look
        assert unit.kills == 0

    def test_hung_health_is_killed_after_three_looks(self, fake: FakeEngine, watch: Watch) -> None:
        watchdog, unit, said = watch
        fake.hang_health = True
        look(watchdog, 2)
        assert unit.kills == 0
        watchdog.look()
        assert unit.kills == 1
        assert said[0].startswith("the engine does not work (1 of 3): /health")
        assert said[-1].startswith("killed the unit: 3 looks in a row")

    def test_health_503_is_killed(self, fake: FakeEngine, watch: Watch) -> None:
        fake.health_status = 503
        look(watch[0], 3)
        assert watch[1].kills == 1
        assert "HTTP 503" in watch[2][-1]

    def test_healthy_engine_that_completes_nothing_is_killed(self, fake: FakeEngine, watch: Watch) -> None:
        fake.hang_completion = True
        look(watch[0], 3)
        assert watch[1].kills == 1
        assert "/v1/completions: timed out" in watch[2][-1]

    def test_full_queue_is_no_hang(self, fake: FakeEngine, watch: Watch) -> None:
        fake.hang_completion = True
        fake.moves_by_itself = True
        look(watch[0], 4)
        assert (watch[1].kills, watch[2]) == (0, ["the engine works"])

    def test_without_counters_the_completion_decides(self, fake: FakeEngine, watch: Watch) -> None:
        fake.tokens = None
        look(watch[0], 3)
        assert (fake.completions(), watch[1].kills) == (3, 0)
        fake.completion_status = 500
        look(watch[0], 3)
        assert watch[1].kills == 1

    def test_a_refused_request_is_an_answer(self, fake: FakeEngine, watch: Watch) -> None:
        fake.completion_status = 401
        look(watch[0], 4)
        assert watch[1].kills == 0

    def test_one_good_look_forgives(self, fake: FakeEngine, watch: Watch) -> None:
        for status in (503, 503, 200, 503, 503):
            fake.health_status = status
            watch[0].look()
        assert watch[1].kills == 0

    def test_inactive_unit_is_left_alone(self, fake: FakeEngine, watch: Watch) -> None:
        watch[1].present = ""
        fake.hang_health = True
        look(watch[0], 4)
        assert (watch[1].kills, fake.seen) == (0, [])
        assert watch[2] == ["not watching: the unit is not active"]

    def test_a_restart_starts_the_count_anew(self, fake: FakeEngine, watch: Watch) -> None:
        watchdog, unit = watch[:2]
        fake.health_status = 503
        look(watchdog, 2)
        unit.present = "run-2"
        look(watchdog, 2)
        assert unit.kills == 0
        watchdog.look()
        assert unit.kills == 1

    def test_counters_of_an_earlier_run_are_not_compared(self, fake: FakeEngine, watch: Watch) -> None:
        watchdog, unit = watch[:2]
        fake.tokens = 5000
        watchdog.look()
        unit.present, fake.tokens, fake.hang_completion = "run-2", 0, True
        look(watchdog, 3)
        assert unit.kills == 1

    def test_a_run_that_began_during_the_probe_is_not_killed(self, fake: FakeEngine, watch: Watch) -> None:
        watchdog, unit = watch[:2]
        fake.health_status = 503
        look(watchdog, 2)
        runs = iter(["run-1", "run-2"])
        unit.run = lambda: next(runs)  # type: ignore[method-assign]
        watchdog.look()
        assert unit.kills == 0

    def test_survives_a_systemctl_that_fails(self, watch: Watch) -> None:
        watch[1].fault = "systemctl show did not return"
        look(watch[0], 2)
        assert watch[2] == ["cannot see the unit: systemctl show did not return"]


@pytest.fixture
def systemctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A systemctl that writes down its arguments."""
    program = tmp_path / "systemctl"
    program.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\ncat {tmp_path}/answer 2>/dev/null\n'
        f"test ! -e {tmp_path}/fail || {{ echo no such unit >&2; exit 5; }}\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return tmp_path


class TestSystemdUnit:
    @pytest.mark.parametrize(("state", "run"), [("active", "abc"), ("activating", ""), ("failed", "")])
    def test_run_is_the_invocation_of_an_active_unit(self, systemctl: Path, state: str, run: str) -> None:
        (systemctl / "answer").write_text(f"ActiveState={state}\nInvocationID=abc\n")
        assert probe.SystemdUnit("vllm@chat.service").run() == run
        assert (systemctl / "calls").read_text() == "show --property=ActiveState,InvocationID vllm@chat.service\n"

    def test_kills_every_process_of_the_unit(self, systemctl: Path) -> None:
        probe.SystemdUnit("vllm@chat.service").kill()
        assert (systemctl / "calls").read_text() == "kill --signal=SIGKILL vllm@chat.service\n"

    def test_failure_is_an_oserror_with_its_reason(self, systemctl: Path) -> None:
        (systemctl / "fail").touch()
        with pytest.raises(OSError, match="systemctl kill: no such unit"):
            probe.SystemdUnit("x.service").kill()


class TestProgram:
    def test_ready_as_a_program_takes_the_key_from_the_environment(self, fake: FakeEngine) -> None:
        command = [sys.executable, "-I", str(PROGRAM), "ready", "--url", fake.url, "--model", "tiny", "--timeout", "5"]
        done = subprocess.run(
            command, env={"VLLM_API_KEY": "s3cret"}, capture_output=True, text=True, timeout=20, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == "ready: the engine is healthy and completed a token\n"
        assert {seen[1] for seen in fake.seen} == {"Bearer s3cret"}

    def test_engine_api_key_wins(self, fake: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("ENGINE_API_KEY", "one")
        monkeypatch.setenv("VLLM_API_KEY", "two")
        assert probe.main(["ready", "--url", fake.url, "--model", "tiny", "--timeout", "5"]) == 0
        assert {seen[1] for seen in fake.seen} == {"Bearer one"}

    def test_not_ready_is_exit_status_1_and_one_line(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert probe.main(["ready", "--url", "http://127.0.0.1:1", "--model", "m", "--timeout", "0.2"]) == 1
        out = capsys.readouterr().out
        assert out.count("\n") == 1 and "Connection refused" in out

    def test_watch_kills_through_systemctl(self, fake: FakeEngine, systemctl: Path) -> None:
        (systemctl / "answer").write_text("ActiveState=active\nInvocationID=abc\n")
        fake.health_status = 503
        command = [sys.executable, "-I", str(PROGRAM), "watch", "--url", fake.url, "--model", "tiny"]
        command += ["--unit", "vllm@chat.service", "--interval", "0.05", "--failures", "2", "--probe-timeout", "1"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline() for number in range(3)]
            process.terminate()
        assert lines[0] == "the engine does not work (1 of 2): /health: HTTP 503\n"
        assert lines[2].startswith("killed the unit: 2 looks in a row found the engine not working")
        assert "kill --signal=SIGKILL vllm@chat.service\n" in (systemctl / "calls").read_text()

    def test_no_option_takes_a_key(self) -> None:
        with pytest.raises(SystemExit):
            probe.parse(["ready", "--url", "u", "--model", "m", "--timeout", "1", "--api-key", "k"])
