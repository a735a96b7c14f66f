# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Carry on in the tool environment of a host when a library is missing in the Python that Ansible found.

A task then needs no interpreter setting, and in check mode on a virgin host, where that environment is not there yet,
the module goes on without it and says what it would do.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import os
from typing import Any

from ansible.module_utils.common.respawn import has_respawned, respawn_module

TOOL_PYTHON = "/opt/baremetal-llm/tools/bin/python"

_F_SETPIPE_SZ = 1031  # fcntl.F_SETPIPE_SZ has a name only from Python 3.10 on
_PIPE_BYTES = 1024 * 1024  # what Linux allows without privileges


def use_tool_environment(module: Any, import_name: str, python: str = TOOL_PYTHON) -> None:
    """Start the module again under ``python`` unless ``import_name`` can be imported here, or ``python`` is absent."""
    if has_respawned() or _importable(import_name) or not os.access(python, os.X_OK):
        return
    module.debug(f"{import_name} is not in this Python: carrying on under {python}")
    _let_arguments_fit()
    respawn_module(python)


def _importable(name: str) -> bool:
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    return True


def _let_arguments_fit() -> None:
    """Make the pipes of this process bigger.

    respawn_module writes the module's arguments into a pipe before anybody reads from it. A pipe holds 64 KiB, and the
    lock file of a model with a thousand files is larger: without this the module would hang without a word.
    """
    make_pipe = os.pipe

    def roomy_pipe() -> tuple[int, int]:
        reader, writer = make_pipe()
        with contextlib.suppress(OSError):  # this user's quota of pipe pages may be used up: small arguments still fit
            fcntl.fcntl(writer, _F_SETPIPE_SZ, _PIPE_BYTES)
        return reader, writer

    os.pipe = roomy_pipe
