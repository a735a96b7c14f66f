# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import datetime
import hashlib
import socket
import sys
from pathlib import Path

import pytest
from weights_sample import safetensors

from ansible_collections.baremetal.llm.plugins.module_utils.lock import LockError
from ansible_collections.baremetal.llm.plugins.module_utils.lock_origins import Patience, WebFiles
from ansible_collections.baremetal.llm.plugins.module_utils.lock_s3 import (
    Credentials,
    S3Origin,
    presign,
    read_credentials,
)
from ansible_collections.baremetal.llm.plugins.module_utils.weights_http import HttpClient
from ansible_collections.baremetal.llm.plugins.module_utils.weights_locking import Selection, lock_model

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "fakes"))

from s3_server import FakeS3  # noqa: E402  (found through the path above)

SECRET = "se/cret+"
CREDENTIALS = Credentials("AKIAEXAMPLE", SECRET)
WEIGHTS = safetensors([("w", "BF16", [1_500_000])])
FILES = {"config.json": b"{}", "model.safetensors": WEIGHTS, "a b/ü+1~.json": b"[1]", "a b/": b"", "README.md": b"x"}


@pytest.fixture
def store():
    with FakeS3(region="eu-central-1", page_size=2) as store:
        store.keys["AKIAEXAMPLE"] = SECRET
        store.buckets["models"] = {f"demo/tiny/{path}": data for path, data in FILES.items()}
        store.buckets["models"]["demo/tinier/config.json"] = b"{}"
        yield store


def origin(store, **keys):
    pauses = []
    patience = Patience(sleep=pauses.append)
    values = {
        "bucket": "models",
        "prefix": "demo/tiny",
        "endpoint": store.url,
        "region": "eu-central-1",
        "credentials": CREDENTIALS,
        **keys,
    }
    made = S3Origin(web=WebFiles(HttpClient(), patience), **values)
    return made, pauses


def lock(store, **keys):
    return lock_model("demo/tiny", origin(store, **keys)[0], Selection())


def problem(store, **keys):
    with pytest.raises(LockError) as caught:
        lock(store, **keys)
    assert SECRET not in str(caught.value) and "X-Amz" not in str(caught.value)
    return str(caught.value)


def test_the_signature_of_amazons_own_example():
    # "Authenticating Requests: Using Query Parameters" in the reference of the S3 API.
    credentials = Credentials("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
    now = datetime.datetime(2013, 5, 24, tzinfo=datetime.timezone.utc)
    url = presign("https://examplebucket.s3.amazonaws.com/test.txt", {}, credentials, "us-east-1", now, 86400)
    assert url.endswith("&X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404")
    with_port = presign("https://examplebucket.s3.amazonaws.com:443/test.txt", {}, credentials, "us-east-1", now, 86400)
    assert with_port.endswith("aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404")


def test_a_bucket(store):
    locked = lock(store)
    assert {file.path: file.sha256 for file in locked.lock.files} == {
        path: hashlib.sha256(FILES[path]).hexdigest() for path in ("config.json", "model.safetensors", "a b/ü+1~.json")
    }
    assert locked.left_out == ("README.md",)
    assert dict(locked.lock.source) == {
        "type": "s3",
        "endpoint": store.url,
        "bucket": "models",
        "prefix": "demo/tiny/",
        "region": "eu-central-1",
    }
    assert locked.lock.facts.tensors.all.parameters == 1_500_000
    assert len([line for line in store.requests if "list-type=2" in line]) == 3


def test_a_temporary_key(store):
    store.session_tokens["AKIAEXAMPLE"] = "to/ken=="
    assert lock(store, credentials=Credentials("AKIAEXAMPLE", SECRET, "to/ken=="))
    assert "HTTP 400, InvalidToken" in problem(store)


def test_the_bucket_in_the_host_name(store, monkeypatch):
    resolve = socket.getaddrinfo

    def here(host, *arguments, **keys):
        return resolve("127.0.0.1" if host == "models.localhost" else host, *arguments, **keys)

    monkeypatch.setattr(socket, "getaddrinfo", here)
    url = store.url.replace("127.0.0.1", "localhost")
    assert lock(store, endpoint=url, virtual_hosted=True).lock.files == lock(store).lock.files


def test_a_public_bucket_needs_no_key(store):
    assert "AccessDenied. The key may lack" in problem(store, credentials=None)
    store.public.add("models")
    assert lock(store, credentials=None)


def test_digests_that_lie_beside_the_files_spare_reading_them(store):
    sums = "".join(
        f"{hashlib.sha256(FILES[path]).hexdigest()}  ./{path}\n" for path in ("config.json", "model.safetensors")
    )
    store.buckets["models"]["demo/tiny/SHA256SUMS"] = sums.encode()
    expected = {file.path: file.sha256 for file in lock(store, checksums="").lock.files}
    store.requests.clear()
    locked = lock(store)
    assert {file.path: file.sha256 for file in locked.lock.files} == expected
    assert locked.lock.source["checksums"] == "SHA256SUMS"
    assert [line.rpartition(" ")[2] for line in store.requests if "model.safetensors" in line] == ["bytes=0-262143"]
    store.buckets["models"]["demo/tiny/SHA256SUMS"] = b"0" * 64 + b"  config.json\n"
    assert "'config.json': what was served is not what is listed" in problem(store)
    store.buckets["models"]["demo/tiny/SHA256SUMS"] = b"0" * 64 + b"  gone.json\n"
    assert "'SHA256SUMS' names 'gone.json', which is not there" in problem(store)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"credentials": Credentials("AKIAEXAMPLE", "wrong")}, "SignatureDoesNotMatch. Correct aws_secret_access_key"),
        ({"credentials": Credentials("AKIAOTHER", SECRET)}, "InvalidAccessKeyId. Correct aws_access_key_id"),
        ({"region": "us-east-1"}, "AuthorizationQueryParametersError. Correct region"),
        ({"bucket": "other"}, "HTTP 404, NoSuchBucket. Correct bucket"),
        ({"prefix": "nothing"}, "there is no object below 'nothing/'"),
        ({"bucket": "a/b"}, "bucket must be the name of a bucket"),
        ({"endpoint": "ftp://x"}, "endpoint must begin with https://"),
        ({"endpoint": "http://store.example.org"}, "would travel in clear"),
        ({"endpoint": "https://a:b@store.example.org"}, "must not hold a user"),
        ({"endpoint": "https://store.example.org/minio"}, "without a path"),
    ],
)
def test_refusals_say_the_way_out(store, keys, words):
    assert words in problem(store, **keys)


def test_clocks_that_differ(store):
    def late():
        return datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(hours=1)

    assert "RequestTimeTooSkewed. Set this host's clock" in problem(store, now=late)


@pytest.mark.parametrize("body", [b"<html>", b"hello", b"<!DOCTYPE x [<!ENTITY a 'b'>]><ListBucketResult/>", b"<a/>"])
def test_what_is_no_store(store, body):
    store.faults = [(200, {}, body)]
    assert "is endpoint a store?" in problem(store)


def test_a_store_that_is_busy_is_waited_for(store):
    store.faults = [(503, {"Retry-After": "7"}, b""), (500, {}, b"")]
    made, pauses = origin(store)
    assert len(made.list().files) == 4
    assert pauses[0] == 8.0 and len(pauses) == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[default]\naws_access_key_id = AK\n", "must have a section [default]"),
        ("[default]\naws_access_key_id = AK\naws_secret_access_key =\n", "is empty"),
        ("AK:hunter2", "must have a section [default]"),
        ("[other]\naws_access_key_id = AK\naws_secret_access_key = hunter2\n", "must have a section [default]"),
    ],
)
def test_credentials_that_cannot_be_used_are_not_shown(tmp_path, text, words):
    path = tmp_path / "credentials"
    path.write_text(text)
    with pytest.raises(LockError) as caught:
        read_credentials(str(path))
    assert words in str(caught.value) and "hunter2" not in str(caught.value)


def test_credentials(tmp_path):
    path = tmp_path / "credentials"
    path.write_text(
        "[default]\naws_access_key_id=A\naws_secret_access_key=%S\n"
        "[temporary]\naws_access_key_id=B\naws_secret_access_key=T\naws_session_token=U\n"
    )
    assert read_credentials(str(path)) == Credentials("A", "%S")
    assert read_credentials(str(path), "temporary") == Credentials("B", "T", "U")
    assert "%S" not in repr(read_credentials(str(path)))
    with pytest.raises(LockError, match="cannot be read: No such file"):
        read_credentials(str(tmp_path / "absent"))
