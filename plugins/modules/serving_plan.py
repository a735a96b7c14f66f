#!/usr/bin/python
# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: serving_plan
short_description: Say whether a model fits on GPUs, and with which settings
version_added: 0.1.0
author:
  - baremetal.llm contributors (@baremetal-llm)
description:
  - Works out where the memory of each GPU goes when an engine serves a model, without the engine, without torch and
    without a network. Chooses the settings that are not wished.
  - Says for what does not fit why, and the smallest change that would make it fit, found by planning again with it.
  - The arithmetic is the engine's own, by version. What cannot be known before, such as the memory of CUDA graphs, is
    estimated from published logs, and stands in RV(interval). C(docs/guides/serving_plan.md) has the errors.
  - Runs on a host or on the controller. A model that does not fit is an answer and not a failure.
extends_documentation_fragment:
  - baremetal.llm.attributes
attributes:
  check_mode:
    support: full
    details: Nothing is changed in any mode.
  diff_mode:
    support: none
    details: Nothing is changed.
  idempotent:
    support: full
  platform:
    support: full
    platforms: posix
options:
  engine:
    description: The engine that is to serve the model.
    type: str
    default: vllm
    choices: [llama_cpp, vllm]
  engine_version:
    description:
      - The engine's version, such as V(0.33.0) of vLLM or V(b11434) of llama.cpp. What is measured and estimated
        depends on it.
      - A version that is newer than those that are known is planned like the newest, with a wider interval.
    type: str
    required: true
  model_path:
    description:
      - A folder with C(config.json) and safetensors files, or a GGUF file. Of the weights only the headers are read.
      - Exactly one of O(model_path), O(lock) and O(model_config) is needed.
    type: path
  lock:
    description: A lock file as M(baremetal.llm.model_lock) writes it.
    type: path
  model_config:
    description: The content of a Hugging Face C(config.json).
    type: dict
  weights_bytes:
    description:
      - Size of the weights in bytes, of the whole model, all GPUs together. Only with O(model_config).
      - Without it the size is estimated from O(model_config), within a few per cent.
    type: int
  model:
    description: Organisation and name of the model, by which O(calibration) knows it. Only with O(model_config).
    type: str
  gpus:
    description:
      - The GPUs that may be used, all of one kind. Each has C(name), C(compute_capability) such as V(9.0), and
        C(memory_bytes), the total memory in bytes that a CUDA process sees.
      - The GPUs in the answer of M(baremetal.llm.gpu_info) can be given as they are. Of their C(memory_total_bytes),
        which NVML counts, the planner takes off what the driver keeps. Other keys are ignored.
    type: list
    elements: dict
    required: true
  host_memory_bytes:
    description:
      - Memory of the host in bytes that llama.cpp may use for layers that are not on a GPU, or for everything if
        O(gpus) is empty. Only with O(engine=llama_cpp).
    type: int
  max_model_len:
    description:
      - Longest context in tokens, prompt and answer together. By default the longest that the model can read, or what
        fits of it.
    type: int
  max_num_seqs:
    description: Most requests in one step of the engine. By default what the engine takes on these GPUs.
    type: int
  max_num_batched_tokens:
    description: Most tokens in one step of the engine. By default what the engine takes on these GPUs.
    type: int
  gpu_memory_utilization:
    description: Share of each GPU's memory that the engine may use, above 0, at most 1. By default the engine's.
    type: float
  kv_cache_dtype:
    description: Data type of the KV cache, such as V(auto) or V(fp8). By default V(auto), which is the model's.
    type: str
  tensor_parallel_size:
    description:
      - Over how many GPUs each layer is divided. By default the fewest on which the whole context of the model fits,
        or as many as there are.
    type: int
  pipeline_parallel_size:
    description: Over how many groups of GPUs the layers are shared out.
    type: int
  kv_cache_memory_bytes:
    description: Size of the KV cache of each GPU in bytes, in place of O(gpu_memory_utilization).
    type: int
  enforce_eager:
    description: Do without CUDA graphs, which is slower and takes less memory.
    type: bool
  quantization:
    description:
      - Quantization of the weights, such as V(fp8), which vLLM does while it loads a model in 16 bits.
      - Another one, such as V(awq), plans for a checkpoint of the same model in that format.
    type: str
  concurrency:
    description: How many requests of full length are to have room in the KV cache at once.
    type: int
  block_size:
    description: Tokens of a block of the KV cache. By default the engine's.
    type: int
  enable_chunked_prefill:
    description: Whether a prompt may be spread over steps. By default what the engine does.
    type: bool
  enable_prefix_caching:
    description: Whether common beginnings of prompts are kept. By default what the engine does.
    type: bool
  calibration:
    description:
      - What was measured on running engines, in place of estimates. A mapping from the key of a deployment to bytes of
        C(weights), C(activations), C(non_torch), C(cuda_graphs) and C(non_kv).
    type: dict
notes:
  - The plan is for GPUs that nothing else uses.
seealso:
  - module: baremetal.llm.gpu_info
  - module: baremetal.llm.model_lock
"""

EXAMPLES = r"""
- name: Ask the host for its GPUs
  baremetal.llm.gpu_info:
  register: facts

- name: Ask whether a locked model fits on them
  baremetal.llm.serving_plan:
    engine: vllm
    engine_version: 0.33.0
    lock: "{{ inventory_dir }}/../locks/qwen3.yml"
    gpus: "{{ facts.gpu.gpus }}"
    max_model_len: 32768
    concurrency: 8
  delegate_to: localhost
  register: plan

- name: Stop if it does not
  ansible.builtin.assert:
    that: plan.fits
    fail_msg: "{{ plan.explanation | join(' ') }}"

- name: Plan for hardware that is not there yet
  baremetal.llm.serving_plan:
    engine_version: 0.33.0
    model_config: "{{ lookup('ansible.builtin.file', 'config.json') | from_json }}"
    weights_bytes: 141107412992
    gpus: "{{ [{'name': 'NVIDIA H100 80GB HBM3', 'memory_bytes': 85024112640, 'compute_capability': '9.0'}] * 4 }}"
  delegate_to: localhost
"""

RETURN = r"""
fits:
  description:
    - Whether the engine starts with RV(settings) and has room for as many requests of full length as wished. Some of
      what is uncertain must remain unused for that.
  returned: always
  type: bool
settings:
  description: The engine's options by its own names. Empty if nothing could be planned.
  returned: always
  type: dict
  sample:
    tensor_parallel_size: 1
    pipeline_parallel_size: 1
    max_model_len: 131072
    max_num_seqs: 1024
    max_num_batched_tokens: 8192
    kv_cache_dtype: auto
    gpu_memory_utilization: 0.92
memory:
  description:
    - Where the memory of one GPU goes, in bytes. C(total); C(requested), what the engine may use of it; C(weights);
      C(activations); C(non_torch); C(cuda_graphs); C(kv_cache).
  returned: always
  type: dict
kv_bytes_per_token:
  description: Bytes of KV cache of one token on one GPU, in all layers.
  returned: always
  type: int
kv_cache_tokens:
  description: Size of the KV cache in tokens, as the engine's log names it.
  returned: always
  type: int
max_concurrency:
  description: How many requests of C(max_model_len) tokens the KV cache holds at once, as the engine's log names it.
  returned: always
  type: float
interval:
  description:
    - Between which values, C(low) and C(high), what cannot be exact is expected to be. C(kv_cache),
      C(kv_cache_tokens), C(max_concurrency), and the parts that are estimated.
  returned: always
  type: dict
explanation:
  description: The plan in sentences.
  returned: always
  type: list
  elements: str
refusals:
  description: Why nothing was planned, or why it does not fit. All that is wrong is listed at once.
  returned: always
  type: list
  elements: dict
  contains:
    code:
      description: A name that stays the same, such as C(context_does_not_fit).
      type: str
    message:
      description: What is wrong, with the numbers.
      type: str
    change:
      description:
        - The smallest change that makes it fit, C(settings) and C(text). V(null) if no change of settings does.
        - Besides options of this module, C(settings) may have C(gpus), the number of GPUs.
      type: dict
    alternatives:
      description: Other changes that each make it fit.
      type: list
      elements: dict
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.baremetal.llm.plugins.module_utils.serving_request import MODEL_INPUTS, plan_request


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "engine": {"type": "str", "default": "vllm", "choices": ["llama_cpp", "vllm"]},
            "engine_version": {"type": "str", "required": True},
            "model_path": {"type": "path"},
            "lock": {"type": "path"},
            "model_config": {"type": "dict"},
            "weights_bytes": {"type": "int"},
            "model": {"type": "str"},
            "gpus": {"type": "list", "elements": "dict", "required": True},
            "host_memory_bytes": {"type": "int"},
            "max_model_len": {"type": "int"},
            "max_num_seqs": {"type": "int"},
            "max_num_batched_tokens": {"type": "int", "no_log": False},
            "gpu_memory_utilization": {"type": "float"},
            "kv_cache_dtype": {"type": "str"},
            "tensor_parallel_size": {"type": "int"},
            "pipeline_parallel_size": {"type": "int"},
            "kv_cache_memory_bytes": {"type": "int"},
            "enforce_eager": {"type": "bool"},
            "quantization": {"type": "str"},
            "concurrency": {"type": "int"},
            "block_size": {"type": "int"},
            "enable_chunked_prefill": {"type": "bool"},
            "enable_prefix_caching": {"type": "bool"},
            "calibration": {"type": "dict"},
        },
        mutually_exclusive=[MODEL_INPUTS],
        required_one_of=[MODEL_INPUTS],
        supports_check_mode=True,
    )
    module.exit_json(changed=False, **plan_request(module.params).as_dict())


if __name__ == "__main__":
    main()
