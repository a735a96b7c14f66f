# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A host with a model root, a model, and web servers that can do wrong: what the tests of model_weights share."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ansible_collections.baremetal.llm.plugins.module_utils import weights, weights_plan
from ansible_collections.baremetal.llm.plugins.module_utils.lock import Lock, LockFile
from ansible_collections.baremetal.llm.plugins.module_utils.weights_files import walk
from ansible_collections.baremetal.llm.plugins.module_utils.weights_pace import Transport
from ansible_collections.baremetal.llm.plugins.module_utils.weights_segments import kept_bytes
from ansible_collections.baremetal.llm.plugins.module_utils.weights_sources import parse_sources

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "fakes"))

from http_weights_server import WeightsServer  # noqa: E402  (found through the path above)

REVISION = "1" * 40
OLD_REVISION = "2" * 40


def safetensors(count, fill=7):
    header = json.dumps({"w": {"dtype": "U8", "shape": [count], "data_offsets": [0, count]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes([fill]) * count


WEIGHTS = safetensors(3_000_000)
FILES = {
    "config.json": b'{"a": 1}',
    "model.safetensors": WEIGHTS,
    "sub/tokenizer.json": b"{}" * 2000,
    # The same content twice, and none at all.
    "sub/copy of tokenizer.json": b"{}" * 2000,
    "merges.txt": b"",
}


def lock_of(files, revision=REVISION):
    return Lock(
        "demo/tiny",
        revision,
        tuple(LockFile(path, len(data), hashlib.sha256(data).hexdigest()) for path, data in sorted(files.items())),
    )


LOCK = lock_of(FILES)


def fill(folder, files):
    for path, data in files.items():
        place = Path(folder) / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)


def content(folder):
    return {
        path: (Path(folder) / path).read_bytes()
        for path, status in walk(str(folder))
        if os.path.isfile(os.path.join(folder, path)) and not path.startswith(".")
    }


class Clock:
    """The time that a run sees: that of the machine, and the pauses that it would have made."""

    def __init__(self):
        self.waits = []
        self.ahead = 0.0

    def __call__(self):
        return time.monotonic() + self.ahead

    def pause(self, seconds, stopped):
        self.waits.append(seconds)
        self.ahead += seconds


@pytest.fixture
def servers():
    started = []

    def start(certificate=""):
        started.append(WeightsServer(FILES, certificate))
        return started[-1]

    yield start
    for server in started:
        server.close()


@pytest.fixture
def server(servers):
    return servers()


@pytest.fixture
def host(tmp_path):
    """A host with a model root, and a shorthand for a run on it."""

    class Host:
        root = str(tmp_path / "models")
        target = tmp_path / "models/demo/tiny" / REVISION
        work = tmp_path / "models/demo/tiny/.fetch"
        share = tmp_path / "share"

        def __init__(self):
            self.clock = Clock()
            self.waits = self.clock.waits

        def run(self, *sources, lock=LOCK, check=False, token_file="", transport=None, **settings):
            parsed, problems = parse_sources([self.source(source) for source in sources], lock, token_file=token_file)
            assert problems == []
            settings.setdefault("reserve_bytes", 0)
            parts = weights_plan.Settings(root=self.root, **settings)
            return weights.ensure(lock, parsed, parts, check, self.transport(**(transport or {})))

        def transport(self, **options):
            defaults = {"idle_seconds": 5, "patience_seconds": 60, "segment_bytes": 256 * 1024, "jitter": lambda: 0.5}
            # One connection makes what is asked for, and when, a matter of the test alone.
            defaults["connections"] = 1
            return Transport(**{"clock": self.clock, "pause": self.clock.pause, **defaults, **options})

        @staticmethod
        def source(source):
            if isinstance(source, WeightsServer):
                return {"type": "http", "url": source.url}
            return source if isinstance(source, dict) else {"type": "folder", "path": str(source)}

        def fails(self, *sources, **settings):
            with pytest.raises(weights_plan.WeightsError) as caught:
                self.run(*sources, **settings)
            return caught.value

        def parts(self):
            return sorted(self.work.glob("*/parts/*.part"))

    host = Host()
    fill(host.share, FILES)
    return host


def found(error):
    return {(finding.path, finding.problem) for finding in error.findings}


def facts(host):
    """What a process of its own needs to run on the same host."""
    return {
        "path": [place for place in sys.path if place],
        "model": LOCK.model,
        "revision": LOCK.revision,
        "files": [(file.path, file.size, file.sha256) for file in LOCK.files],
        "root": host.root,
    }


@pytest.fixture
def certificate(tmp_path):
    """A key and a certificate for 127.0.0.1 in one file, signed by itself."""
    if not shutil.which("openssl"):
        pytest.skip("needs the openssl command")
    path = tmp_path / "certificate.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=test"
    command += f" -addext subjectAltName=IP:127.0.0.1 -keyout {path}.key -out {path}"
    subprocess.run(command.split(), check=True, capture_output=True)
    path.write_bytes(path.read_bytes() + Path(f"{path}.key").read_bytes())
    return str(path)


RUN = """
import sys; sys.path[:0] = {path!r}
from ansible_collections.baremetal.llm.plugins.module_utils import weights, weights_plan
from ansible_collections.baremetal.llm.plugins.module_utils.lock import Lock, LockFile
from ansible_collections.baremetal.llm.plugins.module_utils.weights_files import walk
from ansible_collections.baremetal.llm.plugins.module_utils.weights_pace import Transport
from ansible_collections.baremetal.llm.plugins.module_utils.weights_sources import parse_sources
lock = Lock({model!r}, {revision!r}, tuple(LockFile(*file) for file in {files!r}))
sources, _ = parse_sources([{{"type": "http", "url": {url!r}}}], lock)
settings = weights_plan.Settings(root={root!r}, reserve_bytes=0)
print(weights.ensure(lock, sources, settings, transport=Transport(segment_bytes=256 * 1024, connections=1)).changed)
"""


def start(host, server, flock_works=True):
    script = RUN.format(**facts(host), url=server.url)
    if not flock_works:
        script = "import fcntl; fcntl.flock = lambda descriptor, operation: None\n" + script
    return subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)


def wait_for(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def kept(host):
    file = next(file for file in LOCK.files if file.path == "model.safetensors")
    return kept_bytes(weights_plan.part_path(LOCK, file, weights_plan.Settings(root=host.root)), file)
