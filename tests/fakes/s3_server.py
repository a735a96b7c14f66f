# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A stand-in for an S3-compatible store: buckets in memory, read-only, every signature (Version 4) verified.

It understands addresses with the bucket in the path or in the host name, signatures in the query or in the header,
lists of objects page by page, and ranges. It refuses as Amazon's store does, with the same codes.

    with FakeS3(page_size=2) as store:
        store.buckets["models"] = {"demo/tiny/config.json": b"{}"}
        store.keys["AKIAEXAMPLE"] = "secret"
"""

from __future__ import annotations

import datetime
import hashlib
import hmac
import re
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, quote, unquote, urlsplit
from xml.sax.saxutils import escape


class Refusal(Exception):
    def __init__(self, status: int, code: str) -> None:
        super().__init__(code)
        self.status = status
        self.code = code


class FakeS3:
    def __init__(self, region: str = "us-east-1", page_size: int = 1000) -> None:
        self.region = region
        self.page_size = page_size
        self.buckets: dict[str, dict[str, bytes]] = {}
        self.public: set[str] = set()
        self.keys: dict[str, str] = {}
        self.session_tokens: dict[str, str] = {}
        self.requests: list[str] = []
        # Answers that replace the next ones: (status, headers, body)
        self.faults: list[tuple[int, dict[str, str], bytes]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"store": self}))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> FakeS3:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_details: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def check(self, method: str, target: str, headers: Mapping[str, str], bucket: str) -> None:
        """Refuse what is not signed with a known key, for this moment, exactly as it was sent."""
        raw_path, dummy, raw_query = target.partition("?")
        query = dict(parse_qsl(raw_query, keep_blank_values=True))
        authorization = headers.get("authorization", "")
        if "X-Amz-Signature" in query:
            given = query.pop("X-Amz-Signature")
            credential, signed = query.get("X-Amz-Credential", ""), query.get("X-Amz-SignedHeaders", "")
            stamp, token = query.get("X-Amz-Date", ""), query.get("X-Amz-Security-Token", "")
            seconds, payload = int(query.get("X-Amz-Expires", "0")), "UNSIGNED-PAYLOAD"
        elif authorization:
            match = re.fullmatch(
                r"AWS4-HMAC-SHA256 Credential=([^,]+), ?SignedHeaders=([^,]+), ?Signature=([0-9a-f]{64})", authorization
            )
            if match is None:
                raise Refusal(400, "AuthorizationHeaderMalformed")
            credential, signed, given = match.groups()
            stamp, token = headers.get("x-amz-date", ""), headers.get("x-amz-security-token", "")
            seconds, payload = 900, headers.get("x-amz-content-sha256", "")
        elif bucket in self.public:
            return
        else:
            raise Refusal(403, "AccessDenied")
        key, dummy, scope = credential.partition("/")
        if key not in self.keys:
            raise Refusal(403, "InvalidAccessKeyId")
        if self.session_tokens.get(key, "") != token:
            raise Refusal(400, "InvalidToken")
        if scope != f"{stamp[:8]}/{self.region}/s3/aws4_request":
            raise Refusal(400, "AuthorizationQueryParametersError")
        then = datetime.datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=datetime.timezone.utc)
        age = (datetime.datetime.now(datetime.timezone.utc) - then).total_seconds()
        if age < -900:
            raise Refusal(403, "RequestTimeTooSkewed")
        if age > seconds:
            raise Refusal(403, "AccessDenied")
        names = signed.split(";")
        if "host" not in names:
            raise Refusal(403, "SignatureDoesNotMatch")
        encoded = sorted((quote(name, safe="-_.~"), quote(value, safe="-_.~")) for name, value in query.items())
        canonical = "\n".join(
            [
                method,
                quote(unquote(raw_path), safe="/-_.~"),
                "&".join(f"{name}={value}" for name, value in encoded),
                *(f"{name}:{' '.join(headers.get(name, '').split())}" for name in names),
                "",
                signed,
                payload,
            ]
        )
        text = "\n".join(["AWS4-HMAC-SHA256", stamp, scope, hashlib.sha256(canonical.encode()).hexdigest()])
        secret = ("AWS4" + self.keys[key]).encode()
        for part in (stamp[:8], self.region, "s3", "aws4_request"):
            secret = hmac.new(secret, part.encode(), hashlib.sha256).digest()
        expected = hmac.new(secret, text.encode(), hashlib.sha256).hexdigest()
        if not hmac.compare_digest(expected, given):
            raise Refusal(403, "SignatureDoesNotMatch")

    def page(self, bucket: str, query: Mapping[str, str]) -> bytes:
        prefix, start = query.get("prefix", ""), int(query.get("continuation-token") or 0)
        names = sorted(name for name in self.buckets[bucket] if name.startswith(prefix))
        shown = names[start : start + self.page_size]
        truncated = start + len(shown) < len(names)
        entries = "".join(
            f"<Contents><Key>{escape(name)}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
            f"<ETag>&quot;{hashlib.md5(self.buckets[bucket][name]).hexdigest()}&quot;</ETag>"
            f"<Size>{len(self.buckets[bucket][name])}</Size><StorageClass>STANDARD</StorageClass></Contents>"
            for name in shown
        )
        following = f"<NextContinuationToken>{start + len(shown)}</NextContinuationToken>" if truncated else ""
        return (
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<Name>{bucket}</Name><Prefix>{escape(prefix)}</Prefix><KeyCount>{len(shown)}</KeyCount>"
            f"<MaxKeys>{self.page_size}</MaxKeys><IsTruncated>{str(truncated).lower()}</IsTruncated>"
            f"{following}{entries}</ListBucketResult>"
        ).encode()


class _Handler(BaseHTTPRequestHandler):
    store: FakeS3
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self.store.requests.append(f"{self.command} {self.path} {self.headers.get('Range', '')}".strip())
        try:
            if self.store.faults:
                status, headers, body = self.store.faults.pop(0)
                return self.reply(body, headers, status)
            self.answer()
        except Refusal as refusal:
            body = f"<?xml version='1.0'?><Error><Code>{refusal.code}</Code><Message>Refused</Message></Error>"
            self.reply(body.encode(), {"Content-Type": "application/xml"}, refusal.status)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    do_HEAD = do_GET

    def answer(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        parts = urlsplit(self.path)
        path = unquote(parts.path)
        host = headers["host"].partition(":")[0]
        if host.endswith(".localhost"):
            bucket, key = host[: -len(".localhost")], path[1:]
        else:
            bucket, dummy, key = path[1:].partition("/")
        self.store.check(self.command, self.path, headers, bucket)
        if bucket not in self.store.buckets:
            raise Refusal(404, "NoSuchBucket")
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        if not key:
            if query.get("list-type") != "2":
                raise Refusal(501, "NotImplemented")
            return self.reply(self.store.page(bucket, query), {"Content-Type": "application/xml"})
        data = self.store.buckets[bucket].get(key)
        if data is None:
            raise Refusal(404, "NoSuchKey")
        answer = {
            "ETag": f'"{hashlib.md5(data).hexdigest()}"',
            "Accept-Ranges": "bytes",
            "Content-Type": "binary/octet-stream",
        }
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", headers.get("range", ""))
        if not match:
            return self.reply(data, answer)
        first, end = int(match[1]), min(len(data), int(match[2] or len(data)) + 1)
        if first >= len(data):
            raise Refusal(416, "InvalidRange")
        answer["Content-Range"] = f"bytes {first}-{end - 1}/{len(data)}"
        return self.reply(data[first:end], answer, 206)

    def reply(self, body: bytes, headers: Mapping[str, str], status: int = 200) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_arguments: object) -> None:
        pass
