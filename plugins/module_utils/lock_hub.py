# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A model on the Hugging Face Hub, or on a mirror that speaks its API.

The library huggingface_hub asks the API; the bytes of files come over the same connections as those of other web
servers. Neither sends the token to any other host than the endpoint, nor waits without end for a rate limit.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import quote

from ansible_collections.baremetal.llm.plugins.module_utils.lock import LockError
from ansible_collections.baremetal.llm.plugins.module_utils.lock_origins import (
    Listing,
    Offered,
    WebFiles,
    check_address,
    told,
)
from ansible_collections.baremetal.llm.plugins.module_utils.weights_errors import Retry, SourceError
from ansible_collections.baremetal.llm.plugins.module_utils.weights_http import HttpAccess, cut, origin_of, wait_of

HUB_ENDPOINT = "https://huggingface.co"
_RETRY_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
_SECONDS_WITHOUT_ANSWER = 30.0
# Errors of the library's HTTP client that may not come again.
_PASSING = frozenset({"ReadTimeout", "ReadError", "RemoteProtocolError"})
T = TypeVar("T")


@dataclass
class HubOrigin:
    """One model at one revision. Raises ImportError without the library huggingface_hub."""

    model: str
    web: WebFiles
    revision: str = "main"
    endpoint: str = HUB_ENDPOINT
    token: str = field(default="", repr=False)
    parallel: int = 8
    # Filled by `list`, which comes first.
    _listing: Listing = field(default_factory=lambda: Listing({}, {}), init=False)

    def __post_init__(self) -> None:
        self.endpoint = self.endpoint.rstrip("/")
        check_address("endpoint", self.endpoint, bool(self.token))

    @property
    def label(self) -> str:
        return f"{self.model} at {self.revision} on {self.endpoint}"

    def list(self) -> Listing:
        """What a branch, tag or commit is now, and every file of it with the digests that the Hub publishes."""
        with _library(self.endpoint) as (hub, errors):
            api = hub.HfApi(endpoint=self.endpoint, token=self.token or False)
            info = self._ask(lambda: api.model_info(self.model, revision=self.revision), errors)
            commit = str(info.sha)
            if not re.fullmatch(r"[0-9a-f]{40}", commit):
                problem = (
                    f"the endpoint says that {self.revision!r} is {commit!r}, which is no commit (40 lower-case digits)"
                )
                raise LockError([problem], self.label)
            entries = self._ask(lambda: list(api.list_repo_tree(self.model, recursive=True, revision=commit)), errors)
            files = {entry.path: _offered(entry) for entry in entries if isinstance(entry, hub.hf_api.RepoFile)}
            if not any(entry for entry in files):
                raise LockError(["there are no files at this revision"], self.label)
        source = {"type": "hub", "revision": self.revision}
        if self.endpoint != HUB_ENDPOINT:
            source["endpoint"] = self.endpoint
        card = info.card_data.to_dict() if info.card_data else {}
        licence, link = licence_of(card)
        if not licence:
            licence = next((tag[8:] for tag in info.tags or () if tag.startswith("license:")), "")
        gated = str(info.gated) if info.gated else ""
        self._listing = Listing(files, source, commit, licence, link, gated)
        return self._listing

    def size(self, path: str) -> int:
        return self._listing.files[path].size

    def chunks(self, path: str, first: int, end: int) -> Iterator[memoryview]:
        url = f"{self.endpoint}/{self.model}/resolve/{self._listing.revision}/{quote(path)}"
        secrets = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        access = HttpAccess(self.web.client, url, self.size(path), secrets, path)
        try:
            with told(self.label, path):
                yield from self.web.chunks(access, first, end, self.size(path))
        except LockError as error:
            refused = isinstance(error.__cause__, SourceError) and error.__cause__.actual in ("401", "403")
            if refused and self._listing.gated:
                raise LockError([self._gate()], self.label) from error
            raise

    def _ask(self, call: Callable[[], T], errors: Any) -> T:
        waiting = self.web.patience.start()
        while True:
            try:
                return call()
            except Retry as retry:
                problem = retry
            except LockError:
                raise
            # huggingface_hub raises its own, its HTTP client's and the system's errors, in changing families.
            except Exception as error:
                if not _PASSING & {family.__name__ for family in type(error).__mro__}:
                    raise LockError([self._text(error, errors)], self.label) from error
                problem = Retry(SourceError("connection", f"the connection failed: {type(error).__name__}"))
            try:
                waiting.wait(problem)
            except SourceError as error:
                raise LockError([f"the Hub could not be asked: {error.message}"], self.label) from error

    def _text(self, error: Exception, errors: Any) -> str:
        who = "the token in token_file" if self.token else "a stranger"
        if isinstance(error, errors.GatedRepoError):
            return self._gate()
        if isinstance(error, errors.RepositoryNotFoundError):
            return f"there is no such model, or it is private and {who} may not see it. Correct the name" + (
                ", or use a token of an account that may." if self.token else ", or name a token_file."
            )
        if isinstance(error, errors.RevisionNotFoundError):
            return f"the model has no branch, tag or commit {self.revision!r}. Correct revision."
        if "Invalid credentials" in str(error):
            return "the token in token_file is not valid (any more). Make a new one in the account's settings."
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            return (
                f"the certificate of {self.endpoint} is not trusted; the certificates of a site's own CA go into "
                "ca_file"
            )
        return f"the Hub could not be asked: {type(error).__name__}: {cut(' '.join(str(error).split()))[:400]}"

    def _gate(self) -> str:
        page = f"{self.endpoint}/{self.model}"
        if self.token:
            return (
                f"the model is gated, and the account of the token in token_file has no access to it. Ask for it at "
                f"{page} with that account, wait until it is granted, and lock again. A fine-grained token also needs "
                "the permission to read gated repositories."
            )
        return (
            f"the model is gated: accept its conditions at {page} with an account of yours, make a token that may "
            "read, put it into a file that only you can read, and name that in token_file "
            "(llm_hub_token_file for playbooks)."
        )


def licence_of(card: Mapping[str, Any]) -> tuple[str, str]:
    """The licence that the metadata of a model card name, and where to read it."""
    licence, name, link = (card.get(key) for key in ("license", "license_name", "license_link"))
    if isinstance(licence, (list, tuple)):
        licence = ", ".join(str(part) for part in licence)
    text = str(licence or "")
    if text in ("", "other") and name:
        text = f"other: {name}"
    return text, str(link or "")


def _offered(entry: Any) -> Offered:
    if entry.lfs is None:
        return Offered(int(entry.size), blob_id=str(entry.blob_id))
    sha256 = str(entry.lfs.sha256)
    # What does not look like a digest is left to the reading of the file.
    return Offered(int(entry.lfs.size), sha256 if re.fullmatch(r"[0-9a-f]{64}", sha256) else "")


class _Headers:
    """An answer of the library's client, to ask for its headers as for those of ours."""

    def __init__(self, response: Any) -> None:
        self._response = response

    def header(self, name: str) -> str:
        return str(self._response.headers.get(name) or "").strip()


@contextmanager
def _library(endpoint: str) -> Iterator[tuple[Any, Any]]:
    """The library, with its HTTP client on a short lead."""
    # Before the import: the library reads them once. Only the API is asked, and nothing of it is for a terminal.
    os.environ.update({"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"})
    import huggingface_hub
    import huggingface_hub.hf_api
    from huggingface_hub import errors
    from huggingface_hub.utils import _http

    if not hasattr(huggingface_hub, "set_client_factory"):
        raise ImportError("huggingface_hub is older than 1.2")

    def before(request: Any) -> None:
        # A page of a list or a redirect may lead elsewhere; the token is for the endpoint.
        if origin_of(str(request.url)) != origin_of(endpoint):
            request.headers.pop("Authorization", None)

    def after(response: Any) -> None:
        # Otherwise the library sleeps as long as it is told to, understands only one form of Retry-After, and does
        # not try some requests again at all. This exception passes through it.
        if response.status_code in _RETRY_STATUS:
            problem = SourceError("http_status", f"{cut(str(response.url))} answered HTTP {response.status_code}")
            raise Retry(problem, wait_of(_Headers(response)))  # type: ignore[arg-type]

    def factory() -> Any:
        client = _http.default_client_factory()
        client.timeout = _SECONDS_WITHOUT_ANSWER
        hooks = client.event_hooks
        client.event_hooks = {
            "request": [*hooks.get("request", []), before],
            "response": [*hooks.get("response", []), after],
        }
        return client

    huggingface_hub.set_client_factory(factory)
    try:
        yield huggingface_hub, errors
    finally:
        huggingface_hub.set_client_factory(_http.default_client_factory)
