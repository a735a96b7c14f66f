#!/usr/bin/env python3
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, baremetal.llm contributors
"""Ask an endpoint one question with the OpenAI SDK, streaming, and show how to go on from there."""

from __future__ import annotations

import argparse
import ssl
import sys
import time
from pathlib import Path

from openai import DefaultHttpxClient, OpenAI, OpenAIError

SHOW = """
Endpoint      {base_url}
CA            {ca_file}
Tenant's key  {api_key_file}   (readable by you only; hosts hold its SHA-256)
Model         {model}

curl --cacert {ca_file} \\
     -H "Authorization: Bearer $(cat {api_key_file})" -H "Content-Type: application/json" \\
     -d '{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello"}}], "stream": true}}' \\
     --no-buffer {base_url}/chat/completions

# pip install openai; export SSL_CERT_FILE={ca_file}
from openai import OpenAI
client = OpenAI(base_url="{base_url}", api_key=open("{api_key_file}").read())
for chunk in client.chat.completions.create(
    model="{model}", messages=[{{"role": "user", "content": "Hello"}}], max_tokens=32, stream=True
):
    print(chunk.choices[0].delta.content or "", end="", flush=True)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--base-url", required=True)
    parser.add_argument("--ca-file", required=True)
    parser.add_argument("--api-key-file", required=True, type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--question", default="What does a datacenter dream of?")
    arguments = parser.parse_args()
    trust = ssl.create_default_context(cafile=arguments.ca_file)
    client = OpenAI(
        base_url=arguments.base_url,
        api_key=arguments.api_key_file.read_text(encoding="utf-8"),
        http_client=DefaultHttpxClient(verify=trust, trust_env=False),
    )
    print(f"> {arguments.question}", flush=True)
    begun, first, chunks = time.monotonic(), 0.0, 0
    try:
        stream = client.chat.completions.create(
            model=arguments.model,
            messages=[{"role": "user", "content": arguments.question}],
            max_tokens=48,
            stream=True,
        )
        for chunk in stream:
            text = chunk.choices[0].delta.content if chunk.choices else None
            if text:
                first = first or time.monotonic() - begun
                chunks += 1
                print(text, end="", flush=True)
    except OpenAIError as error:
        sys.exit(f"The endpoint did not answer: {error}")
    print(f"\n\n{chunks} chunks; the first after {first:.2f} s, the last after {time.monotonic() - begun:.2f} s")
    print(SHOW.format(**vars(arguments)))


if __name__ == "__main__":
    main()
