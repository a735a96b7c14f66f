# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A folder of a bucket in an S3-compatible store.

Addresses are signed (AWS Signature Version 4, in the query, as every store of the kind understands it) with the
standard library: botocore does no more of it that is needed here, and is 31 MB.
"""

from __future__ import annotations

import configparser
import datetime
import hashlib
import hmac
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, urlsplit
from xml.etree import ElementTree

from ansible_collections.baremetal.llm.plugins.module_utils.lock import LockError
from ansible_collections.baremetal.llm.plugins.module_utils.lock_origins import (
    CHECKSUMS,
    Listing,
    Offered,
    WebFiles,
    check_address,
    parse_checksums,
    told,
)
from ansible_collections.baremetal.llm.plugins.module_utils.weights_http import HttpAccess

# Long enough for the largest object over a slow line; nobody but this process sees the address.
_SECONDS_VALID = 12 * 3600
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_WAYS_OUT = {
    "AccessDenied": "The key may lack s3:ListBucket or s3:GetObject on this bucket; without credentials_file the "
    "bucket must be public.",
    "InvalidAccessKeyId": "Correct aws_access_key_id in credentials_file.",
    "SignatureDoesNotMatch": "Correct aws_secret_access_key in credentials_file, or region.",
    "AuthorizationHeaderMalformed": "Correct region.",
    "AuthorizationQueryParametersError": "Correct region.",
    "ExpiredToken": "The session token in credentials_file is no longer valid.",
    "RequestTimeTooSkewed": "Set this host's clock.",
    "NoSuchBucket": "Correct bucket or endpoint.",
    "PermanentRedirect": "Correct region or endpoint.",
}


@dataclass(frozen=True)
class Credentials:
    key: str
    secret: str = field(repr=False)
    session_token: str = field(default="", repr=False)


def read_credentials(path: str, profile: str = "default") -> Credentials:
    """From a file as the AWS command line has it (~/.aws/credentials). Raises LockError without showing any of it."""
    parser = configparser.ConfigParser(interpolation=None)
    try:
        with open(path, encoding="utf-8") as stream:
            parser.read_file(stream)
        section = parser[profile]
        key, secret = section["aws_access_key_id"].strip(), section["aws_secret_access_key"].strip()
        token = section.get("aws_session_token", "").strip()
    except OSError as error:
        raise LockError([f"credentials_file {path} cannot be read: {error.strerror}"]) from error
    except (configparser.Error, KeyError, UnicodeDecodeError):
        # The parser's own message would show the line.
        raise LockError(
            [
                f"credentials_file {path} must have a section [{profile}] with aws_access_key_id and "
                "aws_secret_access_key, and aws_session_token if there is one"
            ]
        ) from None
    if not key or not secret:
        raise LockError([f"credentials_file {path}: the key or the secret of [{profile}] is empty"])
    return Credentials(key, secret, token)


def presign(
    url: str,
    query: Mapping[str, str],
    credentials: Credentials | None,
    region: str,
    now: datetime.datetime,
    seconds: int = _SECONDS_VALID,
) -> str:
    """An address for GET that is valid for a while. `url` has its path quoted and no query."""
    parts = urlsplit(url)
    values = dict(query)
    if credentials is None:
        return url + ("?" + _query(values) if values else "")
    stamp = now.strftime("%Y%m%dT%H%M%SZ")
    scope = f"{stamp[:8]}/{region}/s3/aws4_request"
    values.update(
        {
            "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
            "X-Amz-Credential": f"{credentials.key}/{scope}",
            "X-Amz-Date": stamp,
            "X-Amz-Expires": str(seconds),
            "X-Amz-SignedHeaders": "host",
        }
    )
    if credentials.session_token:
        values["X-Amz-Security-Token"] = credentials.session_token
    # As the client sends it: without the port if that is the usual one.
    host = re.sub(r"(?<=[^:]):443$" if parts.scheme == "https" else r"(?<=[^:]):80$", "", parts.netloc)
    request = f"GET\n{parts.path or '/'}\n{_query(values)}\nhost:{host}\n\nhost\nUNSIGNED-PAYLOAD"
    text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
    key = b"AWS4" + credentials.secret.encode()
    for part in scope.split("/"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    signature = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
    return f"{url}?{_query(values)}&X-Amz-Signature={signature}"


def _query(values: Mapping[str, str]) -> str:
    pairs = sorted((quote(name, safe="-_.~"), quote(value, safe="-_.~")) for name, value in values.items())
    return "&".join(f"{name}={value}" for name, value in pairs)


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.timezone.utc)


@dataclass
class S3Origin:
    """The objects below a prefix of a bucket."""

    bucket: str
    web: WebFiles
    prefix: str = ""
    endpoint: str = ""
    region: str = "us-east-1"
    credentials: Credentials | None = field(default=None, repr=False)
    virtual_hosted: bool = False
    # An object with the digests of the others, if there is one; without it every object is read.
    checksums: str = CHECKSUMS
    parallel: int = 8
    now: Callable[[], datetime.datetime] = _now
    _sizes: dict[str, int] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.endpoint = (self.endpoint or f"https://s3.{self.region}.amazonaws.com").rstrip("/")
        check_address("endpoint", self.endpoint, self.credentials is not None)
        if urlsplit(self.endpoint).path:
            raise LockError(["endpoint must be a host, without a path: the bucket is appended to it"], self.endpoint)
        if not _BUCKET.fullmatch(self.bucket):
            raise LockError([f"bucket must be the name of a bucket, not {self.bucket!r}"], self.endpoint)
        self.prefix = self.prefix.strip("/") + "/" if self.prefix.strip("/") else ""

    @property
    def label(self) -> str:
        return f"s3://{self.bucket}/{self.prefix} on {self.endpoint}"

    def list(self) -> Listing:
        files: dict[str, Offered] = {}
        following = ""
        while True:
            query = {"list-type": "2", "prefix": self.prefix}
            if following:
                query["continuation-token"] = following
            with told(self.label, self.prefix):
                status, body = self.web.document(self._signed("", query), {})
            page = self._page(status, body)
            for entry in _all(page, "Contents"):
                key, size = _text(entry, "Key"), int(_text(entry, "Size") or 0)
                path = key[len(self.prefix) :]
                # Consoles make empty objects whose names end with a slash to show folders.
                if key.startswith(self.prefix) and path and not path.endswith("/"):
                    files[path] = Offered(size)
                    self._sizes[path] = size
            following = _text(page, "NextContinuationToken")
            if _text(page, "IsTruncated") != "true" or not following:
                break
        if not files:
            raise LockError([f"there is no object below {self.prefix!r}; correct bucket or prefix"], self.label)
        source = {"type": "s3", "endpoint": self.endpoint, "bucket": self.bucket, "region": self.region}
        if self.prefix:
            source["prefix"] = self.prefix
        if self.checksums in files:
            source["checksums"] = self.checksums
            body = b"".join(bytes(part) for part in self.chunks(self.checksums, 0, self.size(self.checksums)))
            listed = parse_checksums(body, self.checksums, self.label)
            absent = sorted(path for path in listed if path not in files)
            if absent:
                raise LockError(
                    [f"{self.checksums!r} names {path!r}, which is not there" for path in absent], self.label
                )
            files.update({path: Offered(files[path].size, listed[path].sha256) for path in listed})
        return Listing(files, source)

    def size(self, path: str) -> int:
        return self._sizes[path]

    def chunks(self, path: str, first: int, end: int) -> Iterator[memoryview]:
        url = self._signed(quote(self.prefix + path, safe="/-_.~"), {})
        access = HttpAccess(self.web.client, url, self.size(path), {}, path)
        with told(self.label, path):
            yield from self.web.chunks(access, first, end, self.size(path))

    def _signed(self, key: str, query: Mapping[str, str]) -> str:
        if self.virtual_hosted:
            parts = urlsplit(self.endpoint)
            url = f"{parts.scheme}://{self.bucket}.{parts.netloc}/{key}"
        else:
            url = f"{self.endpoint}/{self.bucket}" + (f"/{key}" if key else "")
        return presign(url, query, self.credentials, self.region, self.now())

    def _page(self, status: int, body: bytes) -> ElementTree.Element:
        page = None
        # Entities are the only thing in XML that can hurt, and no store sends a document type.
        if b"<!DOCTYPE" not in body:
            try:
                page = ElementTree.fromstring(body)
            except ElementTree.ParseError:
                page = None
        if page is not None and status == 200 and page.tag.endswith("ListBucketResult"):
            return page
        code = _text(page, "Code") if page is not None else ""
        text = f"the list of objects is answered with HTTP {status}" + (f", {code}" if code else "")
        if status == 200:
            text = "what is answered is no list of objects; is endpoint a store?"
        raise LockError([f"{text}. {_WAYS_OUT.get(code, '')}".strip(" .") + "."], self.label)


def _all(page: ElementTree.Element, name: str) -> list[ElementTree.Element]:
    return [element for element in page if element.tag.rpartition("}")[2] == name]


def _text(page: ElementTree.Element, name: str) -> str:
    return next(((element.text or "") for element in _all(page, name)), "")
