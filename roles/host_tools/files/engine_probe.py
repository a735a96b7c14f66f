#!/usr/bin/python3 -I
# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Find out whether an inference engine on this host really answers.

``ready`` waits until the engine is healthy and has completed one token: for ExecStartPost of its unit.
``watch`` looks again and again, and kills a unit whose engine hangs, so that Restart=always brings it back. An engine
can be hung while its port is open and /health says 200: only tokens prove that it works.

The API key comes from the environment (ENGINE_API_KEY, else VLLM_API_KEY), never from the command line.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

HEALTH_TIMEOUT_SECONDS = 10.0
RETRY_SECONDS = 2.0
REPORT_SECONDS = 60.0
SYSTEMCTL_TIMEOUT_SECONDS = 30.0
# Tokens read or written, whichever the engine counts: vLLM's and llama.cpp's names.
TOKEN_COUNTER = re.compile(
    r"^(?:vllm|llamacpp):(?:(?:prompt|generation)_tokens_total|iteration_tokens_total_sum|tokens_predicted_total)"
    r"(?:\{[^}]*\})? ([0-9.eE+-]+)",
    re.MULTILINE,
)
# Answers that waiting will not change, and what they mean.
FINAL = {
    400: "does not take a completion",
    401: "refuses the API key (ENGINE_API_KEY or VLLM_API_KEY in the environment)",
    403: "refuses the API key (ENGINE_API_KEY or VLLM_API_KEY in the environment)",
    404: "does not serve this model, or has no completions",
}


class NoAnswer(Exception):
    """The engine did not answer as it should; ``status`` is that of HTTP, 0 when there was none."""

    def __init__(self, text: str, status: int = 0) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True)
class Engine:
    """An engine, asked over HTTP on this host."""

    url: str
    model: str
    key: str = ""

    def health(self, timeout: float) -> None:
        self._ask("/health", timeout)

    def tokens(self, timeout: float) -> float | None:
        """Return the sum of the token counters; None when the engine does not say."""
        try:
            found = TOKEN_COUNTER.findall(self._ask("/metrics", timeout).decode("utf-8", errors="replace"))
            return sum(float(value) for value in found) if found else None
        except (NoAnswer, ValueError):
            return None

    def complete(self, timeout: float) -> None:
        question = {"model": self.model, "prompt": "1", "max_tokens": 1, "temperature": 0}
        answer = self._ask("/v1/completions", timeout, json.dumps(question).encode())
        try:
            complete = bool(json.loads(answer)["choices"])
        except (ValueError, TypeError, KeyError):
            complete = False
        if not complete:
            raise NoAnswer(f"/v1/completions: the answer is no completion: {_short(answer)}")

    def _ask(self, path: str, timeout: float, body: bytes | None = None) -> bytes:
        request = urllib.request.Request(self.url.rstrip("/") + path, data=body)
        if body is not None:
            request.add_header("Content-Type", "application/json")
        if self.key:
            request.add_header("Authorization", f"Bearer {self.key}")
        # The engine is on this host: a proxy in the environment is not for it.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=timeout) as response:
                content: bytes = response.read()
                return content
        except urllib.error.HTTPError as error:
            text = ""
            with error, contextlib.suppress(OSError, http.client.HTTPException):
                text = _short(error.read(2000))
            raise NoAnswer(f"{path}: HTTP {error.code} {text}".rstrip(), error.code) from error
        except (OSError, http.client.HTTPException) as error:
            raise NoAnswer(f"{path}: {getattr(error, 'reason', None) or error or type(error).__name__}") from error


def _short(answer: bytes) -> str:
    return " ".join(answer.decode("utf-8", errors="replace").split())[:200]


def wait_until_ready(engine: Engine, timeout: float, main_pid: int | None, say: Callable[[str], None]) -> str:
    """Return an empty text when the engine has completed a token, else why it has not."""
    start = reported = time.monotonic()
    while True:
        left = timeout - (time.monotonic() - start)
        try:
            engine.health(max(0.1, min(left, HEALTH_TIMEOUT_SECONDS)))
            engine.complete(max(0.1, timeout - (time.monotonic() - start)))
            return ""
        except NoAnswer as problem:
            reason = str(problem)
            if problem.status in FINAL:
                return f"the engine at {engine.url} {FINAL[problem.status]}: {reason}"
        if main_pid is not None and not _is_alive(main_pid):
            return f"the engine's main process ({main_pid}) has ended: the lines above in its journal say why"
        now = time.monotonic()
        if now - start + RETRY_SECONDS > timeout:
            return f"the engine at {engine.url} was not ready after {timeout:g} s: {reason}"
        if now - reported >= REPORT_SECONDS:
            reported = now
            say(f"waiting for the engine since {now - start:.0f} s: {reason}")
        time.sleep(RETRY_SECONDS)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it is there and belongs to somebody else
    return True


class Unit(Protocol):
    """A systemd unit, as far as the watchdog needs one."""

    def run(self) -> str:
        """Return what names the present run of the unit; an empty text when it is not active."""

    def kill(self) -> None:
        """Kill every process of the unit."""


@dataclass(frozen=True)
class SystemdUnit:
    """The real one."""

    name: str

    def run(self) -> str:
        shown = self._systemctl("show", "--property=ActiveState,InvocationID", self.name)
        properties = dict(line.partition("=")[::2] for line in shown.splitlines())
        return properties.get("InvocationID", "") if properties.get("ActiveState") == "active" else ""

    def kill(self) -> None:
        # Every process of the unit: that is what systemctl does unless told otherwise, and the option that would say
        # so has another name before systemd 252.
        self._systemctl("kill", "--signal=SIGKILL", self.name)

    def _systemctl(self, *arguments: str) -> str:
        try:
            done = subprocess.run(
                ["systemctl", *arguments],
                capture_output=True,
                text=True,
                timeout=SYSTEMCTL_TIMEOUT_SECONDS,
                check=True,
            )
        except subprocess.CalledProcessError as error:
            raise OSError(f"systemctl {arguments[0]}: {error.stderr.strip()}") from error
        except subprocess.TimeoutExpired as error:
            raise OSError(f"systemctl {arguments[0]} did not return") from error
        return done.stdout


class Watchdog:
    """Counts the looks in a row at which the engine did not work, and kills its unit when there are too many."""

    def __init__(
        self, engine: Engine, unit: Unit, failures: int, probe_timeout: float, say: Callable[[str], None]
    ) -> None:
        self._engine, self._unit, self._failures, self._probe_timeout = engine, unit, failures, probe_timeout
        self._say = say
        self._state = ""
        self._run = ""
        self._negatives = 0
        self._tokens: float | None = None

    def look(self) -> None:
        """Look once."""
        try:
            run = self._unit.run()
        except OSError as error:
            self._report(f"cannot see the unit: {error}")
            return
        if run != self._run:
            # Another run of the engine, or none: what was seen of the one before says nothing about it.
            self._run, self._negatives, self._tokens = run, 0, None
        if not run:
            self._report("not watching: the unit is not active")
            return
        fault = self._fault()
        if not fault:
            self._negatives = 0
            self._report("the engine works")
            return
        self._negatives += 1
        self._report(f"the engine does not work ({self._negatives} of {self._failures}): {fault}")
        if self._negatives >= self._failures:
            self._kill(fault, run)

    def _fault(self) -> str:
        before, self._tokens = self._tokens, None
        try:
            self._engine.health(min(self._probe_timeout, HEALTH_TIMEOUT_SECONDS))
        except NoAnswer as problem:
            return str(problem)
        self._tokens = self._count()
        if before is not None and self._tokens is not None and self._tokens != before:
            return ""
        # No tokens since the last look: idle or hung. One token tells.
        before = self._tokens
        fault = ""
        try:
            self._engine.complete(self._probe_timeout)
        except NoAnswer as problem:
            # An answer, whatever it says of the request, is not a hang; an error of the engine's own is a fault.
            fault = "" if problem.status in FINAL else str(problem)
        self._tokens = self._count()
        # A full queue can keep a probe waiting for long while the engine works.
        moved = before is not None and self._tokens is not None and self._tokens != before
        return "" if moved else fault

    def _count(self) -> float | None:
        return self._engine.tokens(min(self._probe_timeout, HEALTH_TIMEOUT_SECONDS))

    def _kill(self, fault: str, run: str) -> None:
        self._negatives = 0
        try:
            # The probe took its time: a run that began meanwhile did nothing wrong.
            if self._unit.run() != run:
                return
            self._unit.kill()
            self._report(
                f"killed the unit: {self._failures} looks in a row found the engine not working, last: {fault}"
            )
        except OSError as error:
            self._report(f"cannot kill the unit: {error}")

    def _report(self, state: str) -> None:
        if state != self._state:
            self._state = state
            self._say(state)


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="engine-probe", description=(__doc__ or "").partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    ready = commands.add_parser("ready", help="wait until the engine has completed one token")
    ready.add_argument("--timeout", type=float, required=True, help="seconds")
    ready.add_argument("--main-pid", type=int, help="give up at once when this process is gone")
    watch = commands.add_parser("watch", help="kill the unit of an engine that hangs")
    watch.add_argument("--unit", required=True)
    watch.add_argument("--interval", type=float, default=15, help="seconds between looks")
    watch.add_argument("--failures", type=int, default=3, help="looks in a row")
    watch.add_argument("--probe-timeout", type=float, default=120, help="seconds one token may take")
    for command in (ready, watch):
        command.add_argument("--url", required=True, help="for instance http://127.0.0.1:8000")
        command.add_argument("--model", required=True, help="the name that the engine serves the model under")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    key = os.environ.get("ENGINE_API_KEY") or os.environ.get("VLLM_API_KEY") or ""
    engine = Engine(options.url, options.model, key)

    def say(text: str) -> None:
        print(text, flush=True)

    if options.command == "ready":
        problem = wait_until_ready(engine, options.timeout, options.main_pid, say)
        say(problem or "ready: the engine is healthy and completed a token")
        return 1 if problem else 0
    watchdog = Watchdog(engine, SystemdUnit(options.unit), options.failures, options.probe_timeout, say)
    while True:
        watchdog.look()
        time.sleep(options.interval)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
