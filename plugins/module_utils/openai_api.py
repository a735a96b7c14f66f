# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ask an OpenAI-compatible endpoint the questions that a client would, and time the answers.

Imports ``requests`` only when a question is asked, so that documentation and checks do not need it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Callable

CHECKS = ("health", "models", "completion", "chat", "stream", "wrong_key")


class EndpointError(Exception):
    """The endpoint gave an answer that a client could not use."""


@dataclass(frozen=True)
class CheckResult:
    """The outcome of one question."""

    name: str
    ok: bool
    seconds: float
    """Until the whole answer was there."""
    message: str
    """Why it failed, or what came back, in a few words."""
    time_to_first_token: float | None = None
    """Seconds until the first streamed text; only for ``stream``."""
    chunks: int | None = None
    """Streamed chunks that carried text; only for ``stream``."""


@dataclass(frozen=True)
class EndpointReport:
    """What an endpoint answered to every question asked."""

    base_url: str
    model: str
    results: tuple[CheckResult, ...] = field(default_factory=tuple)

    @property
    def ok(self) -> bool:
        return all(result.ok for result in self.results)

    def failures(self) -> list[str]:
        """Return one sentence for each question that failed."""
        return [f"{result.name}: {result.message}" for result in self.results if not result.ok]

    def as_dict(self) -> dict[str, Any]:
        return {"base_url": self.base_url, "model": self.model, "results": [asdict(result) for result in self.results]}


def error_text(status: int, body: str) -> str:
    """Return an OpenAI-shaped error's message, or the beginning of whatever came instead."""
    try:
        message = json.loads(body)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        message = body[:200]
    return f"HTTP {status}: {message}"


def stream_events(lines: Iterator[bytes]) -> Iterator[Mapping[str, Any]]:
    """Yield the JSON of each server-sent event; raise ``EndpointError`` if the stream ends without ``[DONE]``."""
    for line in lines:
        if not line.startswith(b"data:"):
            continue
        data = line[len(b"data:") :].strip()
        if data == b"[DONE]":
            return
        try:
            yield json.loads(data)
        except ValueError as error:
            raise EndpointError(f"an event is not JSON: {data[:100]!r}") from error
    raise EndpointError("the stream ended without [DONE]: it was cut")


class Client:
    """Questions to one endpoint; every method raises ``EndpointError`` with a sentence if the answer is not usable.

    :param base_url: up to and including ``/v1``
    :param timeout: seconds to wait for a connection and between two reads
    """

    def __init__(self, base_url: str, model: str, api_key: str = "", ca_file: str = "", timeout: float = 60.0) -> None:
        import requests

        self.base_url = base_url.rstrip("/")
        self.model = model
        self._timeout = timeout
        self._errors = requests.RequestException
        self._session = requests.Session()
        # Neither a proxy nor ~/.netrc has a say in what is asked of a host of the site.
        self._session.trust_env = False
        self._session.verify = ca_file or True
        if api_key:
            self._session.headers["Authorization"] = f"Bearer {api_key}"

    def _request(self, method: str, url: str, **more: Any) -> Any:
        try:
            answer = self._session.request(method, url, timeout=self._timeout, allow_redirects=False, **more)
        except self._errors as error:
            raise EndpointError(f"no answer from {url}: {error}") from error
        if answer.status_code != 200:
            raise EndpointError(error_text(answer.status_code, answer.text))
        return answer

    def _json(self, method: str, path: str, **more: Any) -> Any:
        answer = self._request(method, self.base_url + path, **more)
        try:
            return answer.json()
        except ValueError as error:
            raise EndpointError(f"the answer of {path} is not JSON: {answer.text[:100]!r}") from error

    def _messages(self, prompt: str, max_tokens: int) -> dict[str, Any]:
        return {"model": self.model, "messages": [{"role": "user", "content": prompt}], "max_tokens": max_tokens}

    def health(self) -> str:
        """Ask ``/health``, which engines have beside ``/v1``."""
        self._request("GET", self.base_url.rsplit("/v1", 1)[0] + "/health")
        return "healthy"

    def models(self) -> str:
        """The served model's name must be listed."""
        listed = self._json("GET", "/models")
        try:
            names = [entry["id"] for entry in listed["data"]]
        except (KeyError, TypeError) as error:
            raise EndpointError(f"/models is not a list of models: {str(listed)[:100]}") from error
        if self.model not in names:
            raise EndpointError(f"{self.model} is not among the models served: {', '.join(names) or 'none'}")
        return ", ".join(names)

    def completion(self, prompt: str, max_tokens: int) -> str:
        """A plain completion must have a choice."""
        body = {"model": self.model, "prompt": prompt, "max_tokens": max_tokens}
        return self._choice(self._json("POST", "/completions", json=body), "text")

    def chat(self, prompt: str, max_tokens: int) -> str:
        """A chat completion must have a message."""
        return self._choice(self._json("POST", "/chat/completions", json=self._messages(prompt, max_tokens)), "message")

    @staticmethod
    def _choice(answer: Any, key: str) -> str:
        try:
            answer["choices"][0][key]
            tokens = answer["usage"]["completion_tokens"]
        except (KeyError, IndexError, TypeError) as error:
            raise EndpointError(f"the answer has no choice with usage: {str(answer)[:200]}") from error
        return f"{tokens} tokens"

    def stream(
        self, prompt: str, max_tokens: int, clock: Callable[[], float] = time.monotonic
    ) -> tuple[int, float | None]:
        """Return how many chunks carried text and after how many seconds the first of them was there."""
        begun, first, chunks = clock(), None, 0
        body = self._messages(prompt, max_tokens) | {"stream": True}
        answer = self._request("POST", self.base_url + "/chat/completions", json=body, stream=True)
        try:
            # One byte at a time from the socket's point of view: a chunk is seen when it arrives.
            for event in stream_events(answer.iter_lines(chunk_size=1)):
                for choice in event.get("choices", []):
                    if choice.get("delta", {}).get("content"):
                        chunks += 1
                        first = first if first is not None else clock() - begun
        except self._errors as error:
            raise EndpointError(f"the stream broke after {chunks} chunks: {error}") from error
        return chunks, first

    def refuses_wrong_key(self) -> str:
        """A key that nobody was given must be answered with 401."""
        url = f"{self.base_url}/models"
        try:
            answer = self._session.get(
                url, timeout=self._timeout, headers={"Authorization": "Bearer not-a-key"}, allow_redirects=False
            )
        except self._errors as error:
            raise EndpointError(f"no answer from {url}: {error}") from error
        # 429: somebody else at this address tried too many wrong keys just now.
        if answer.status_code not in (401, 429):
            raise EndpointError(f"a wrong key was answered with HTTP {answer.status_code}, not 401")
        return f"HTTP {answer.status_code}"


def ask(
    client: Client,
    checks: tuple[str, ...],
    prompt: str = "Hello",
    max_tokens: int = 8,
    clock: Callable[[], float] = time.monotonic,
) -> EndpointReport:
    """Ask every question in ``checks`` (names from ``CHECKS``), whatever the others answered."""
    questions: dict[str, Callable[[], str]] = {
        "health": client.health,
        "models": client.models,
        "completion": lambda: client.completion(prompt, max_tokens),
        "chat": lambda: client.chat(prompt, max_tokens),
        "wrong_key": client.refuses_wrong_key,
    }
    results = []
    for name in checks:
        begun = clock()
        first, chunks = None, None
        try:
            if name == "stream":
                chunks, first = client.stream(prompt, max_tokens, clock)
                message = f"{chunks} chunks"
            else:
                message = questions[name]()
            ok = True
        except EndpointError as error:
            ok, message = False, str(error)
        results.append(CheckResult(name, ok, clock() - begun, message, first, chunks))
    return EndpointReport(client.base_url, client.model, tuple(results))
