# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest

from ansible_collections.baremetal.llm.plugins.module_utils.parity_xid import UNKNOWN, XIDS, describe

# The immediate action of NVIDIA's Xid catalogue, for numbers that fleets meet.
CATALOGUE = {
    "RESTART_APP": (13, 31, 32, 68, 69, 80),
    "IGNORE": (43, 44, 63, 92, 121, 154),
    "WORKFLOW_XID_45": (45,),
    "RESET_GPU": (46, 62, 64, 95, 109, 110, 119, 120, 136, 140, 143, 155, 156, 158),
    "WORKFLOW_XID_48": (48,),
    "WORKFLOW_NVLINK_ERR": (74,),
    "WORKFLOW_NVLINK5_ERR": (144, 145, 146, 147, 148, 149, 150),
    "RESTART_BM": (79, 160),
    "CHECK_MECHANICALS": (54,),
}
NOTES = ("RESTART_APP", "IGNORE", "WORKFLOW_XID_45")


@pytest.mark.parametrize("action", CATALOGUE)
def test_severity_follows_the_catalogue(action):
    severities = {number: describe(number).severity for number in CATALOGUE[action]}
    assert severities == dict.fromkeys(CATALOGUE[action], "note" if action in NOTES else "error")


def test_a_contained_error_is_more_than_a_note():
    """The catalogue restarts the program only; that memory went bad is still worth knowing."""
    assert describe(94).severity == "warning"


def test_every_error_says_what_to_do():
    assert [number for number, xid in XIDS.items() if not xid.meaning or not xid.action] == []
    assert "power the host off" in describe(79).action.lower()
    assert "reset" in describe(119).action.lower()


def test_a_number_that_nobody_wrote_down():
    assert describe(4711) is UNKNOWN
    assert UNKNOWN.severity == "warning"
