# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What can go wrong on the way of a file, by what is to be done about it."""

from __future__ import annotations

import errno
import os


class SourceError(Exception):
    """A source that does not deliver a file: the next one is asked. `problem` is a stable code."""

    def __init__(self, problem: str, message: str, expected: str = "", actual: str = "") -> None:
        super().__init__(message)
        self.problem = problem
        self.message = message
        self.expected = expected
        self.actual = actual

    def __str__(self) -> str:
        return self.message


class Retry(Exception):
    """The same source may deliver after a pause of `wait` seconds; None lets the caller choose one."""

    def __init__(self, problem: SourceError, wait: float | None = None) -> None:
        super().__init__(problem.message)
        self.problem = problem
        self.wait = wait
        self.refused = False


class Sequential(Exception):
    """The source knows no ranges: the file has to come in one stream, from its first byte."""


class Changed(Exception):
    """The file at the source is not the one that it was a moment ago."""

    def __init__(self, expected: str, actual: str) -> None:
        super().__init__("the file changed at the source")
        self.expected = expected
        self.actual = actual


class DiskError(Exception):
    """The destination cannot be written: the whole run ends."""


class Stopped(Exception):
    """Another file of the same run ended it."""


class TooLate(Exception):
    """The time that the run was given is over."""


def disk_error(error: OSError, path: str) -> DiskError:
    name = errno.errorcode.get(error.errno or 0, "")
    return DiskError(f"{os.path.dirname(path)} cannot be written: {error.strerror} ({name})")
