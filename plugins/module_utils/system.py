# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The seam between what the collection decides about a host and the host itself: files and commands, read only.

A missing file and a missing command are answers, never exceptions. Tests put a folder in the place of `/` and a
table of outputs in the place of the commands, see tests/fakes/hosts.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

# What a shell says for the same, so that nobody has to learn new numbers.
TIMED_OUT = 124
NOT_EXECUTABLE = 126
NOT_FOUND = 127

# Ansible's own PATH may lack the folders of modinfo and dkms.
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class CommandResult:
    """How a command ended. `code` is that of a shell: 127 for a missing command, 124 for one that took too long."""

    code: int
    stdout: str
    stderr: str

    @property
    def ok(self) -> bool:
        return self.code == 0

    @property
    def found(self) -> bool:
        return self.code != NOT_FOUND


class System:
    """A host. Paths are absolute, as on the host; *root* is where its `/` lies."""

    def __init__(self, root: str = "/") -> None:
        self.root = os.path.realpath(root)

    def path(self, path: str) -> str:
        """Where *path* of the host lies for this process."""
        return os.path.join(self.root, path.lstrip("/")) if self.root != "/" else path

    def read(self, path: str) -> str | None:
        """The text of a file, or `None` if it cannot be read."""
        content = self.read_bytes(path)
        return None if content is None else content.decode("utf-8", "replace")

    def read_bytes(self, path: str) -> bytes | None:
        """The content of a file, or `None` if it cannot be read."""
        try:
            with open(self.path(path), "rb") as handle:
                return handle.read()
        except OSError:
            return None

    def list(self, path: str) -> list[str]:
        """The sorted names in a folder; none if there is no such folder."""
        try:
            return sorted(os.listdir(self.path(path)))
        except OSError:
            return []

    def exists(self, path: str) -> bool:
        return os.path.exists(self.path(path))

    def readlink(self, path: str) -> str | None:
        """What a symbolic link holds, as it is written there, or `None` if it is none."""
        try:
            return os.readlink(self.path(path))
        except OSError:
            return None

    def resolve(self, path: str) -> str:
        """*path* with every symbolic link followed, as a path of the host. The file need not exist."""
        real = os.path.realpath(self.path(path))
        if self.root == "/":
            return real
        # An absolute link leads out of a root of its own: what it names is a path of the host already.
        return real[len(self.root) :] or "/" if (real + "/").startswith(self.root + "/") else real

    def modified_at(self, path: str) -> float | None:
        """When a file was last written, in seconds since 1970, or `None` if there is no such file."""
        try:
            return os.stat(self.path(path)).st_mtime
        except OSError:
            return None

    def run(self, argv: Sequence[str], timeout_seconds: float = 10) -> CommandResult:
        """Run a command in the C locale, with nothing to read. It never raises."""
        environment = {**os.environ, "LC_ALL": "C", "LANGUAGE": "C", "PATH": _PATH}
        try:
            done = subprocess.run(  # pylint: disable=ansible-bad-function
                list(argv),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=timeout_seconds,
                env=environment,
                check=False,
            )
        except FileNotFoundError:
            return CommandResult(NOT_FOUND, "", f"{argv[0]}: command not found")
        except subprocess.TimeoutExpired:
            return CommandResult(TIMED_OUT, "", f"{argv[0]}: no answer within {timeout_seconds:g} s")
        except OSError as error:
            return CommandResult(NOT_EXECUTABLE, "", f"{argv[0]}: {error.strerror or error}")
        return CommandResult(done.returncode, _text(done.stdout), _text(done.stderr))


def _text(output: bytes) -> str:
    return output.decode("utf-8", "replace")
