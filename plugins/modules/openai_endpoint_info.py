#!/usr/bin/python
# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: ask an OpenAI-compatible endpoint what a client would ask."""

from __future__ import annotations

DOCUMENTATION = r"""
module: openai_endpoint_info
short_description: Ask an OpenAI-compatible endpoint the questions that a client would, and time them
version_added: 0.1.0
author:
  - baremetal.llm contributors (@baremetal-llm)
description:
  - Asks real questions of an endpoint, streaming included, from the host where the module runs.
  - Fails when an answer is not one that a client could use, unless O(report_only=true).
  - Certificates are always verified. Proxies from the environment are not used.
options:
  base_url:
    description:
      - Address of the API, up to and including C(/v1).
    type: str
    required: true
  model:
    description:
      - Name of the model as it is served.
    type: str
    required: true
  api_key:
    description:
      - Key to send as a bearer token. Without one, none is sent.
    type: str
    default: ''
  ca_file:
    description:
      - File of CA certificates (PEM) that the endpoint's certificate is verified against.
        By default those of the Python that runs the module.
    type: path
    default: ''
  checks:
    description:
      - Questions to ask, all of them whatever the others answered.
      - V(health) asks C(/health), which engines have and gateways do not. V(wrong_key) expects a refusal.
    type: list
    elements: str
    choices: [health, models, completion, chat, stream, wrong_key]
    default: [models, chat, stream]
  prompt:
    description:
      - What to ask the model.
    type: str
    default: Hello
  max_tokens:
    description:
      - Most tokens to ask for in an answer.
    type: int
    default: 8
  timeout_seconds:
    description:
      - Seconds to wait for a connection, and between two parts of an answer.
    type: float
    default: 60
  report_only:
    description:
      - Return what failed instead of failing.
    type: bool
    default: false
extends_documentation_fragment:
  - baremetal.llm.attributes
attributes:
  check_mode:
    support: full
    details: Asks questions in check mode, too. It changes nothing, but uses tokens.
  diff_mode:
    support: none
  idempotent:
    support: full
  platform:
    support: full
    platforms: posix
requirements:
  - requests (the module finds it in the tool environment that the role P(baremetal.llm.host_tools#role) makes)
"""

EXAMPLES = r"""
- name: Ask the endpoint as a tenant would
  baremetal.llm.openai_endpoint_info:
    base_url: https://llm.example.net/v1
    model: qwen3-32b
    api_key: "{{ tenant_api_key }}"
    ca_file: /etc/ssl/certs/site-ca.pem
    checks: [models, chat, stream, wrong_key]
  delegate_to: localhost
"""

RETURN = r"""
ok:
  description: Whether every question had a usable answer.
  returned: success
  type: bool
  sample: true
results:
  description: One entry for each question.
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description: The question, as in O(checks).
      type: str
      sample: stream
    ok:
      description: Whether the answer was usable.
      type: bool
      sample: true
    seconds:
      description: Seconds until the whole answer was there.
      type: float
      sample: 0.42
    message:
      description: Why it failed, or what came back, in a few words.
      type: str
      sample: 8 chunks
    time_to_first_token:
      description: Seconds until the first streamed text; V(null) for other questions.
      type: float
      sample: 0.05
    chunks:
      description: Streamed chunks that carried text; V(null) for other questions.
      type: int
      sample: 8
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.baremetal.llm.plugins.module_utils._respawn import use_tool_environment
from ansible_collections.baremetal.llm.plugins.module_utils.openai_api import CHECKS, Client, ask


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "base_url": {"type": "str", "required": True},
            "model": {"type": "str", "required": True},
            "api_key": {"type": "str", "default": "", "no_log": True},
            "ca_file": {"type": "path", "default": ""},
            "checks": {
                "type": "list",
                "elements": "str",
                "choices": list(CHECKS),
                "default": ["models", "chat", "stream"],
            },
            "prompt": {"type": "str", "default": "Hello"},
            "max_tokens": {"type": "int", "default": 8, "no_log": False},
            "timeout_seconds": {"type": "float", "default": 60},
            "report_only": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    use_tool_environment(module, "requests")
    options = module.params
    try:
        client = Client(
            options["base_url"], options["model"], options["api_key"], options["ca_file"], options["timeout_seconds"]
        )
    except ImportError:
        module.fail_json(
            msg="openai_endpoint_info needs the Python library requests. The role baremetal.llm.host_tools brings it."
        )
    report = ask(client, tuple(options["checks"]), options["prompt"], options["max_tokens"])
    if not report.ok and not options["report_only"]:
        module.fail_json(
            msg=f"{report.base_url} ({report.model}) does not answer as it should. " + "; ".join(report.failures()),
            results=report.as_dict()["results"],
        )
    module.exit_json(changed=False, ok=report.ok, results=report.as_dict()["results"])


if __name__ == "__main__":
    main()
