# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The wording of the attributes that every module of the collection declares."""

from __future__ import annotations


class ModuleDocFragment:
    # A module adds `support` (and `details`) to each key; the words are the same everywhere.
    DOCUMENTATION = r"""
options: {}
attributes:
  check_mode:
    description: Can run in C(check_mode) and says what it would do, without changing anything on the host.
  diff_mode:
    description: Returns what it changed, or would change in check mode, as a diff when run with C(--diff).
  idempotent:
    description: A second run with the same options, on a host that nobody touched in between, changes nothing.
  platform:
    description: Operating systems that the module runs on.
"""
