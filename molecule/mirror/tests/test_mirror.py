# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the mirror answers to whom, and what hosts of the site get from it. The last tests change the host."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

CONFIGURATION = "/etc/nginx/conf.d/baremetal-llm-mirror.conf"
LOG = "/var/log/nginx/baremetal-llm-mirror.log"
SHARD = "model-00001-of-00002.safetensors"


@pytest.fixture
def ask(url):
    """Return a function that sends one request, its path as it is."""

    def send(path: str, method: str = "GET", **headers: str) -> requests.Response:
        request = requests.Request(method, f"{url}/").prepare()
        # Prepared by hand: requests would tidy up the path.
        request.url = f"{url}{path}"
        request.headers.update(headers)
        with requests.Session() as session:
            session.trust_env = False
            return session.send(request, timeout=30)

    return send


# --- Requests


def test_head_and_ranges_of_a_file(ask, lock):
    file = next(file for file in lock("new").files if file.path == SHARD)
    place = f"/demo/noise/resolve/main/{SHARD}"
    head = ask(place, "HEAD")
    assert head.status_code == 200
    assert head.content == b""
    assert head.headers["ETag"] == head.headers["X-Linked-Etag"] == f'"{file.sha256}"'
    assert head.headers["Content-Length"] == head.headers["X-Linked-Size"] == str(file.size)
    assert head.headers["X-Repo-Commit"] == lock("new").revision
    assert head.headers["Accept-Ranges"] == "bytes"
    etag = head.headers["ETag"]
    part = ask(place, Range="bytes=100-199", **{"If-Range": etag})
    assert (part.status_code, part.headers["Content-Range"]) == (206, f"bytes 100-199/{file.size}")
    assert len(part.content) == 100
    # What a client has of other content is not continued.
    assert ask(place, Range="bytes=100-199", **{"If-Range": '"other"'}).status_code == 200
    beyond = ask(place, Range=f"bytes={file.size}-")
    assert (beyond.status_code, beyond.headers["Content-Range"]) == (416, f"bytes */{file.size}")
    assert ask(place, Range="bytes=0-1,5-6").status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/demo/",
        "/demo/noise",
        "/demo/noise/resolve/main",
        "/demo/noise/resolve/main/",
        "/demo/noise/resolve/main/original/",
        "/demo/noise/resolve/main/.baremetal-llm.json",
        "/demo/noise/resolve/main/unlisted.json",
        "/demo/noise/resolve/main/CONFIG.JSON",
        "/demo/noise/.fetch/lock",
        "/demo/noise/resolve/.fetch/lock",
        "/demo/noise/resolve/main/../../../../../../etc/passwd",
        "/demo/noise/resolve/main/..%2f..%2f..%2f..%2f..%2fetc%2fpasswd",
        "/demo/noise/resolve/main/original/..;/config.json",
        "/demo/noise/resolve/main/config.json%00",
        "/demo/noise/resolve/main//etc/passwd",
        "/srv/models/demo/noise",
        "/api/models",
        "/api/models/",
        "/api/models/demo/noise/../../../index.txt",
        "/api/demo/noise/refs.json",
        "/index.txt",
        "/locations.conf",
    ],
)
def test_nothing_else_exists(ask, path):
    answer = ask(path)
    assert answer.status_code in (400, 404)
    assert len(answer.content) < 300
    assert b"root:" not in answer.content
    assert not re.search(b"(?i)index of|config.json", answer.content)


@pytest.mark.parametrize("method", ["PUT", "POST", "DELETE", "PATCH", "MKCOL", "PROPFIND", "OPTIONS"])
def test_nothing_but_reading(ask, method):
    for path in ("/demo/noise/resolve/main/config.json", "/api/models/demo/noise", "/absent"):
        answer = ask(path, method)
        assert answer.status_code == 405
        assert answer.headers["Allow"] == "GET, HEAD"


def test_a_client_that_is_not_named_learns_nothing(client, address):
    """The same host from another address: what exists and what does not, it cannot tell."""
    other = re.sub(r"\d+$", "99", address)
    client.check_output(f"ip address replace {other}/24 dev eth0")
    fetch = (
        "import http.client, sys\n"
        "for path in sys.argv[2:]:\n"
        f" c = http.client.HTTPConnection('{address}', 8090, source_address=(sys.argv[1], 0))\n"
        " c.request('GET', path); a = c.getresponse(); print(a.status, 'X-Error-Code' in a.headers)\n"
    )
    noise = "/demo/noise/resolve/main"
    paths = f"{noise}/config.json {noise}/absent /absent /api/models/demo/noise /healthz"
    assert set(client.check_output(f'python3 -c "{fetch}" {other} {paths}').splitlines()) == {"403 False"}
    own = client.interface("eth0").addresses[0]
    assert client.check_output(f'python3 -c "{fetch}" {own} {paths}').splitlines()[0] == "200 False"


def test_transfers_of_one_client_are_limited(url, mirror):
    limit = int(
        re.search(r"limit_conn baremetal_llm_mirror_clients (\d+);", mirror.file(CONFIGURATION).content_string)[1]
    )
    assert limit == 64
    with requests.Session() as session, ThreadPoolExecutor(16) as pool:
        session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=100))
        place = f"{url}/demo/noise/resolve/main/{SHARD}"
        # Begun and not read, so that each stays under way.
        answers = list(pool.map(lambda _number: session.get(place, stream=True, timeout=30), range(80)))
        codes = [answer.status_code for answer in answers]
        for answer in answers:
            answer.close()
    assert codes.count(200) == limit
    assert codes.count(429) == 16


def test_log_has_neither_queries_nor_tokens(ask, mirror):
    ask("/demo/noise/resolve/main/config.json?token=hf_secret", Authorization="Bearer hf_secret", Referer="hf_secret")
    ask("/absent?token=hf_secret")
    assert "hf_secret" not in mirror.check_output("cat /var/log/nginx/*.log")
    entry = json.loads(mirror.file(LOG).content_string.splitlines()[-2])
    assert (entry["path"], entry["status"]) == ("/demo/noise/resolve/main/config.json", "200")


# --- The host


def test_nothing_but_the_mirror_was_opened(mirror):
    listening = mirror.check_output("ss -Hltn | awk '{print $4}'").split()
    assert {place for place in listening if not place.endswith(":22")} == {"0.0.0.0:8090"}


def test_what_is_served_is_on_the_disk_for_people(mirror, lock):
    release = re.search(r"include (\S+)/locations.conf;", mirror.file(CONFIGURATION).content_string)[1]
    lines = mirror.file(f"{release}/index.txt").content_string.splitlines()
    assert f"demo/noise main is {lock('new').revision}" in lines
    assert f"demo/noise {lock('new').revision} has a manifest of its pieces" in lines
    assert len(lines) == 3 + 2 + sum(len(lock(name).files) for name in ("old", "new", "other"))


# --- Hosts of the site fetch


def test_a_host_fetches_and_verifies(playbook, client, lock, url):
    """As from the Hub, and as from any web server."""
    jobs = [
        {"model": "new", "folder": "/srv/hub", "source": {"type": "hub", "endpoint": url}},
        {
            "model": "new",
            "folder": "/srv/http",
            "source": {"type": "http", "url": f"{url}/demo/noise/resolve/{lock('new').revision}"},
        },
    ]
    done = playbook("molecule/mirror/fetch.yml", "--extra-vars", json.dumps({"fetch_jobs": jobs}))
    assert done.returncode == 0, done.stdout + done.stderr
    digests = sorted(file.sha256 for file in lock("new").files)
    for job in jobs:
        found = client.check_output(
            f"cd {lock('new').folder(job['folder'])} && find . -type f ! -name '.*' | xargs -d '\\n' sha256sum"
        )
        # sha256sum marks names that hold a backslash, of which there is none.
        assert sorted(line.split()[0] for line in found.splitlines()) == digests


def test_a_host_heals_a_file_by_its_pieces(playbook, client, mirror, lock, url):
    """What the mirror serves beside the files says where the damage is: one of the two pieces is fetched."""
    place = f"{lock('new').folder('/srv/hub')}/{SHARD}"
    damage = "stream = open(sys.argv[1], 'r+b'); stream.seek(20000000); stream.write(b'damage')"
    client.check_output(f'python3 -c "import sys; {damage}" {place}')
    jobs = [{"model": "new", "folder": "/srv/hub", "source": {"type": "hub", "endpoint": url}}]
    before = len(mirror.file(LOG).content_string.splitlines())
    done = playbook("molecule/mirror/fetch.yml", "--extra-vars", json.dumps({"fetch_jobs": jobs}))
    assert done.returncode == 0, done.stdout + done.stderr
    file = next(file for file in lock("new").files if file.path == SHARD)
    assert client.file(place).sha256sum == file.sha256
    entries = [json.loads(line) for line in mirror.file(LOG).content_string.splitlines()[before:]]
    assert any(entry["path"].endswith("/.baremetal-llm.meta4") for entry in entries)
    sent = sum(int(entry["response_bytes"]) for entry in entries if entry["path"].endswith(SHARD))
    assert 8_000_000 < sent < 9_000_000


def test_a_damaged_file_of_the_mirror_is_caught_by_the_lock(playbook, client, mirror, lock, url):
    """Same size, same time: the mirror serves it, and the host that fetches does not believe it."""
    place = f"{lock('old').folder()}/model-00001-of-00001.safetensors"
    before = mirror.file(place).mtime
    damage = "stream = open(sys.argv[1], 'r+b'); stream.seek(500000); stream.write(b'damage')"
    mirror.check_output(f'python3 -c "import sys; {damage}" {place} && touch -d @{before.timestamp()} {place}')
    jobs = [{"model": "old", "folder": "/srv/damaged", "source": {"type": "hub", "endpoint": url}}]
    done = playbook("molecule/mirror/fetch.yml", "--extra-vars", json.dumps({"fetch_jobs": jobs}))
    assert done.returncode != 0
    assert "model-00001-of-00001.safetensors" in done.stdout
    assert not client.file(lock("old").folder("/srv/damaged")).exists


# --- Changes, each upon the last one


def test_a_gateway_can_be_added_to_the_same_nginx(playbook, ask, address, gateway_ca_file):
    done = playbook("molecule/mirror/gateway.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    gateway_answers(address, gateway_ca_file)
    assert ask("/demo/noise/resolve/main/config.json").status_code == 200


def gateway_answers(address, ca_file):
    assert requests.get(f"https://{address}/healthz", verify=ca_file, timeout=10).json() == {"status": "ok"}


def test_a_damaged_model_is_withheld_and_named(playbook, ask, lock, url):
    """Of the last test. Whoever only serves and does not fetch cannot heal; the other models are not to suffer."""
    commit = lock("old").revision
    assert ask(f"/demo/noise/resolve/{commit}/config.json").status_code == 200
    done = playbook("playbooks/mirror.yml", "--tags", "site_mirror_configure")
    assert done.returncode != 0
    message = re.sub(r"\s+", " ", done.stdout + done.stderr)
    assert "mirror-1 does not serve" in message
    assert "model-00001-of-00001.safetensors was touched after it was verified" in message
    answer = ask(f"/demo/noise/resolve/{commit}/config.json")
    assert (answer.status_code, answer.headers["X-Error-Code"]) == (404, "RevisionNotFound")
    assert ask("/demo/noise/resolve/main/config.json").status_code == 200


def test_the_playbook_heals_it_and_a_model_that_is_taken_out_disappears(playbook, ask, lock, mirror):
    process = mirror.check_output("cat /run/nginx.pid")
    started = mirror.check_output(f"stat -c %Y /proc/{process}")
    models = [{"name": "old", "sources": [{"type": "folder", "path": "/srv/seed/old"}], "branches": ["main"]}]
    done = playbook("playbooks/mirror.yml", "--diff", "--extra-vars", json.dumps({"llm_mirror_models": models}))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"+demo/noise main is {lock('old').revision}" in done.stdout
    assert ask("/demo/noise/resolve/main/config.json").headers["X-Repo-Commit"] == lock("old").revision
    assert ask(f"/demo/noise/resolve/{lock('new').revision}/config.json").headers["X-Error-Code"] == "RevisionNotFound"
    for place in (f"/demo/other/resolve/{lock('other').revision}/config.json", "/api/models/demo/other"):
        assert ask(place).headers["X-Error-Code"] == "RepoNotFound"
    # Reloaded, not restarted.
    assert mirror.check_output("cat /run/nginx.pid") == process
    assert mirror.check_output(f"stat -c %Y /proc/{process}") == started


def test_a_file_that_the_mirror_lost_is_not_one_that_the_model_does_not_have(ask, lock, mirror):
    """Neither a link out of the folder nor a hole in it: a client must not take it for an optional file."""
    place = f"{lock('old').folder()}/config.json"
    mirror.check_output(f"mv {place} /srv/kept.json && ln -s /srv/kept.json {place}")
    try:
        answer = ask("/demo/noise/resolve/main/config.json")
        assert answer.status_code == 410
        assert "X-Error-Code" not in answer.headers
        assert "lost" in answer.headers["X-Error-Message"]
    finally:
        mirror.check_output(f"mv /srv/kept.json {place}")


def test_wrong_settings_change_nothing(playbook, ask, mirror):
    before = mirror.check_output("sha256sum %s", CONFIGURATION)
    wrong = {"site_mirror_port": 0, "llm_mirror_clients": ["nowhere.invalid"], "llm_mirror_models": []}
    done = playbook("playbooks/mirror.yml", "--extra-vars", json.dumps(wrong))
    assert done.returncode != 0
    message = re.sub(r"\s+", " ", done.stdout + done.stderr)
    for part in ("mirror-1: ", "site_mirror_port 0", "cannot resolve 'nowhere.invalid'"):
        assert part in message
    assert mirror.check_output("sha256sum %s", CONFIGURATION) == before


def test_a_configuration_that_nginx_refuses_never_goes_live(playbook, ask, mirror, tmp_path):
    """A certificate that is none: only nginx's own test can tell."""
    for name in ("one.pem", "one.key"):
        (tmp_path / name).write_text("not a certificate\n")
    before = mirror.check_output("sha256sum %s", CONFIGURATION)
    given = {"site_mirror_tls_certificate": f"{tmp_path}/one.pem", "site_mirror_tls_private_key": f"{tmp_path}/one.key"}
    done = playbook("playbooks/mirror.yml", "--skip-tags", "site_mirror_install", "--extra-vars", json.dumps(given))
    assert done.returncode != 0
    assert "PEM" in done.stdout + done.stderr
    assert mirror.check_output("sha256sum %s", CONFIGURATION) == before
    assert mirror.run("nginx -t").rc == 0
    assert ask("/healthz").status_code == 200


def test_over_tls_with_a_given_certificate_and_beside_the_gateway(
    playbook, address, mirror, lock, tmp_path, gateway_ca_file
):
    make = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=mirror "
        f"-addext subjectAltName=IP:{address} -keyout {tmp_path}/mirror.key -out {tmp_path}/mirror.pem"
    )
    subprocess.run(make.split(), check=True, capture_output=True)
    given = {
        "site_mirror_tls_certificate": f"{tmp_path}/mirror.pem",
        "site_mirror_tls_private_key": f"{tmp_path}/mirror.key",
        "llm_mirror_models": [{"name": "old", "sources": [{"type": "folder", "path": "/srv/seed/old"}]}],
    }
    done = playbook("playbooks/mirror.yml", "--diff", "--extra-vars", json.dumps(given))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "PRIVATE KEY" not in done.stdout + done.stderr
    place = f"https://{address}:8090/demo/noise/resolve/{lock('old').revision}/config.json"
    assert requests.get(place, verify=f"{tmp_path}/mirror.pem", timeout=10).status_code == 200
    environment = {"HF_ENDPOINT": f"https://{address}:8090", "HF_HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    program = [str(Path(sys.executable).parent / "hf"), "download", "demo/noise", "config.json"]
    program += ["--revision", lock("old").revision]
    trusting = {**environment, "SSL_CERT_FILE": f"{tmp_path}/mirror.pem"}
    assert subprocess.run(program, env=environment, capture_output=True, check=False).returncode != 0
    subprocess.run(program, env=trusting, capture_output=True, check=True)
    key = mirror.check_output("ls /etc/baremetal-llm/tls/mirror-*.key").splitlines()[-1]
    assert oct(mirror.file(key).mode) == "0o600"
    gateway_answers(address, gateway_ca_file)
    assert mirror.run("nginx -t").rc == 0
