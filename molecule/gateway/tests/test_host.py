# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The gateway's host: TLS, files, logs, the unit, and changes that go wrong. The last tests change the host."""

from __future__ import annotations

import json
import re
import socket
import ssl
import subprocess
import time

import pytest
import requests

CONFIGURATION = "/etc/nginx/conf.d/baremetal-llm.conf"


def handshake(address: str, ca_file: str, name: str | None, **settings) -> ssl.SSLSocket:
    """Make a TLS connection and return it."""
    context = ssl.create_default_context(cafile=ca_file)
    for key, value in settings.items():
        setattr(context, key, value)
    context.check_hostname = name is not None
    return context.wrap_socket(socket.create_connection((address, 443), timeout=10), server_hostname=name)


# --- TLS


def test_certificate_names_the_server_and_its_address(address, ca_file):
    with handshake(address, ca_file, "llm.example.org") as connection:
        names = connection.getpeercert()["subjectAltName"]
    assert sorted(names) == [("DNS", "llm.example.org"), ("IP Address", address)]


def test_unknown_names_are_rejected_in_the_handshake(address, ca_file):
    with pytest.raises(ssl.SSLError, match="UNRECOGNIZED_NAME"):
        handshake(address, ca_file, "other.example.org")


def test_unknown_host_header_is_misdirected(address, ca_file):
    answer = requests.get(f"https://{address}/healthz", verify=ca_file, headers={"Host": "evil.example"}, timeout=10)
    assert answer.status_code == 421


def test_a_client_that_was_given_an_address_sends_no_name(address, ca_file):
    with handshake(address, ca_file, None) as connection:
        assert connection.version() == "TLSv1.3"


def test_tls_1_2_has_forward_secrecy_and_no_tickets(address, ca_file):
    with handshake(address, ca_file, "llm.example.org", maximum_version=ssl.TLSVersion.TLSv1_2) as connection:
        assert re.fullmatch(r"ECDHE-ECDSA-(AES\d+-GCM-SHA\d+|CHACHA20-POLY1305)", connection.cipher()[0])
        assert not connection.session.has_ticket


def test_older_tls_is_refused(gateway):
    # The client must be willing, else its own refusal is what is seen.
    done = gateway.run("openssl s_client -connect 127.0.0.1:443 -tls1_1 -cipher ALL:@SECLEVEL=0 </dev/null")
    assert done.rc != 0
    assert "alert protocol version" in done.stderr


def test_only_these_ports_are_open(gateway):
    listening = gateway.check_output("ss -Hltn | awk '{print $4}'").split()
    ours = {address for address in listening if not address.endswith(":22")}
    fakes = {f"127.0.0.1:{port}" for port in (9001, 9002, 9003, 9004)}
    assert ours - fakes == {"0.0.0.0:443", "127.0.0.1:8081"}


def test_status_for_monitoring(gateway):
    fetch = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:8081/stub_status').read().decode())"
    assert "Active connections" in gateway.check_output("python3 -c %s", fetch)


# --- Files and logs


def test_private_keys_and_the_engine_key_are_roots(gateway):
    for path in (
        "/etc/baremetal-llm/ca/ca.key",
        "/etc/baremetal-llm/tls/gateway.key",
        "/etc/nginx/baremetal-llm/engine-key.conf",
    ):
        file = gateway.file(path)
        assert (file.user, file.group, oct(file.mode)) == ("root", "root", "0o600"), path


def test_no_key_of_a_tenant_is_on_the_host(gateway, address, ca_file):
    for place in ("Authorization", "X-Api-Key"):
        requests.post(
            f"https://{address}/v1/chat/completions?api_key=sk-alpha",
            json={"model": "tiny", "messages": [{"role": "user", "content": "the-secret-question"}]},
            headers={place: "Bearer sk-alpha"},
            verify=ca_file,
            timeout=10,
        ).close()
    places = "/etc /opt /var/log /var/lib/nginx /run"
    # The journal holds this very command line, which sudo writes there.
    found = gateway.run(f"grep -rlE --exclude-dir=journal 'sk-(alpha|slow|narrow)|the-secret-question' {places}")
    assert found.stdout == ""
    assert "sk-alpha" not in gateway.check_output("journalctl --no-pager -u nginx")
    holders = gateway.check_output(f"grep -rl --exclude-dir=journal engine-key-0123456789abcdef {places}").split()
    assert sorted(holders) == ["/etc/nginx/baremetal-llm/engine-key.conf", "/etc/systemd/system/fake-engine@.service"]


def test_access_log_tells_who_asked_for_what_and_how_long_it_took(gateway, address, ca_file):
    with requests.post(
        f"https://{address}/v1/chat/completions?secret=1",
        json={"model": "org/Code-1", "messages": []},
        headers={"Authorization": "Bearer sk-alpha", "X-Request-ID": "from-the-client"},
        verify=ca_file,
        timeout=10,
    ) as answer:
        request_id = answer.headers["X-Request-ID"]
        # One, and the gateway's own: neither the client's nor the engine's.
        assert re.fullmatch("[0-9a-f]{32}", request_id)
    lines = gateway.file("/var/log/nginx/baremetal-llm.log").content_string.splitlines()
    entry = next(entry for entry in map(json.loads, lines) if entry["request_id"] == request_id)
    assert entry["tenant"] == "alpha"
    assert entry["route"] == "/v1/chat/completions"
    assert entry["deployment"] == "code"
    assert entry["status"] == entry["upstream_status"] == "200"
    assert entry["upstream"] == "127.0.0.1:9003"
    assert float(entry["upstream_header_seconds"]) <= float(entry["request_seconds"]) + 0.01
    assert "secret" not in json.dumps(entry)


# --- The unit


def test_nginx_is_enabled_limited_and_restarted(gateway):
    assert gateway.service("nginx").is_enabled
    assert gateway.service("nginx").is_running
    properties = dict(
        line.split("=", 1) for line in gateway.check_output("systemctl show nginx").splitlines() if "=" in line
    )
    assert properties["Restart"] == "always"
    assert properties["NoNewPrivileges"] == "yes"
    assert properties["ProtectSystem"] == "strict"
    assert properties["LimitNOFILE"] == "65536"


def test_nginx_comes_back_when_it_dies(gateway, address, ca_file):
    gateway.check_output("systemctl kill --kill-whom=all --signal=SIGKILL nginx")
    deadline = time.monotonic() + 20
    while True:
        try:
            assert requests.get(f"https://{address}/healthz", verify=ca_file, timeout=5).status_code == 200
            return
        except requests.ConnectionError:
            assert time.monotonic() < deadline
            time.sleep(0.5)


def test_nothing_in_the_configuration_needs_a_name_server(gateway):
    servers = re.findall(r"^ +server (\S+)", gateway.file(CONFIGURATION).content_string, re.MULTILINE)
    assert [server.rsplit(":", 1)[0] for server in servers] == ["127.0.0.1"] * 5


# --- Changes


def serial(address: str, ca_file: str) -> str:
    with handshake(address, ca_file, "llm.example.org") as connection:
        return connection.getpeercert()["serialNumber"]


def test_every_wrong_setting_is_named_at_once_and_nothing_changes(converge, gateway):
    before = gateway.check_output("sha256sum %s", CONFIGURATION)
    wrong = {
        "gateway_engine_api_key": "",
        "gateway_tenants": [{"name": "a", "key_sha256": "sk-in-clear-text"}, {"name": "A"}],
        "gateway_routes": ["/v1/load_lora_adapter"],
        "gateway_deployments": [{"name": "x", "served_model_name": "x", "replicas": ["nowhere.invalid:8000"]}],
    }
    done = converge("--extra-vars", json.dumps(wrong))
    assert done.returncode != 0
    message = re.sub(r"\s+", " ", done.stdout + done.stderr)
    for part in (
        "gateway-1: ",
        "gateway_engine_api_key is empty",
        "gateway_tenants[0] (a): key_sha256 must be 64 hexadecimal digits",
        "gateway_tenants[1] (A): name must be",
        "gateway_routes: '/v1/load_lora_adapter'",
        "cannot resolve 'nowhere.invalid'",
    ):
        assert part in message
    assert "sk-in-clear-text" not in message
    assert gateway.check_output("sha256sum %s", CONFIGURATION) == before


def test_the_certificate_is_renewed_before_it_expires(converge, address, ca_file):
    old = serial(address, ca_file)
    done = converge("--tags", "gateway_certificate", "--extra-vars", "gateway_certificate_renew_days=398")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    assert serial(address, ca_file) != old, "renewed, signed by the same CA, and in use"


def test_a_configuration_that_nginx_refuses_never_goes_live(converge, gateway, address, ca_file, tmp_path):
    """A certificate and a key that do not belong together: only nginx's own test can tell."""
    for name in ("one", "two"):
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
                *("-subj", "/CN=llm.example.org", "-addext", "subjectAltName=DNS:llm.example.org"),
                *("-keyout", str(tmp_path / f"{name}.key"), "-out", str(tmp_path / f"{name}.pem")),
            ],
            check=True,
            capture_output=True,
        )
    before = gateway.check_output("sha256sum %s", CONFIGURATION)
    live = serial(address, ca_file)

    def give(key: str) -> subprocess.CompletedProcess[str]:
        files = {"gateway_tls_certificate": f"{tmp_path}/one.pem", "gateway_tls_private_key": f"{tmp_path}/{key}.key"}
        return converge("--diff", "-vvv", "--skip-tags", "gateway_install", "--extra-vars", json.dumps(files))

    done = give("two")
    assert done.returncode != 0
    assert "key values mismatch" in done.stdout + done.stderr
    assert "PRIVATE KEY" not in done.stdout + done.stderr
    assert gateway.check_output("sha256sum %s", CONFIGURATION) == before
    assert gateway.run("nginx -t").rc == 0
    assert gateway.run("ls -A /etc/nginx | grep candidate").stdout == ""
    assert serial(address, ca_file) == live

    done = give("one")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    assert serial(address, str(tmp_path / "one.pem")) != live
    assert "PRIVATE KEY" not in done.stdout + done.stderr
