# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure, AnsibleError
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase
from ansible.utils.vars import merge_hash

from ansible_collections.baremetal.llm.plugins.module_utils import progress

# A line every 8 seconds, so that with the time a question takes there is one every 10. The first comes sooner.
FIRST_STEPS, FIRST_STEP_SECONDS = 15, "0.2"
STEPS, STEP_SECONDS = 8, "1"
# A GPU server needs this long to come back, and nothing on the host ends because nobody asks.
UNREACHABLE_SECONDS = 900
PAUSE_SECONDS = 5
# How long nothing may be said about a job before it is looked for among the processes.
SILENT_SECONDS = 30
# The wrapper of asynchronous jobs knows no "never"; the module has a deadline of its own for those who want one.
NO_LIMIT_SECONDS = 10 * 365 * 86400
# What async_status adds to the module's result.
_OF_THE_JOB = ("started", "finished", "ansible_job_id", "results_file")
_DEFAULT_ROOT = "/srv/models"


class ActionModule(ActionBase):
    """Run the module, and show how far it is where it has something to fetch.

    The module runs in check mode first: where that finds nothing to do, its answer is the result, and a site without
    changes pays for one start and one session as ever. Otherwise it is started as an asynchronous job, because what
    takes hours must not end with the session that began it. A job goes on when the play is interrupted or the network
    is; the next run waits for it and finds its bytes, for the module lets one run per model work.
    """

    _supports_check_mode = True
    _supports_async = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        try:
            watched = boolean(arguments.pop("progress", True))
        except TypeError as error:
            raise AnsibleActionFail(f"model_weights: progress: {error}") from error
        own = not self._task.async_val and not self._task.check_mode
        # A connection that runs modules in a way of its own cannot run the wrapper of asynchronous jobs.
        plain = self._connection.always_pipeline_modules or self._connection.has_native_async
        try:
            if watched and own and not plain and not self._task.no_log:
                answer = self._watched(arguments, task_vars)
            else:
                wrap_async = bool(self._task.async_val and not self._connection.has_native_async)
                answer = self._execute_directly(arguments, task_vars, wrap_async)
        finally:
            if not self._task.async_val:
                self._remove_tmp_path(self._connection._shell.tmpdir)  # type: ignore[no-untyped-call]
        merged: dict[str, Any] = merge_hash(result, answer)
        return merged

    def _watched(self, arguments: Mapping[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        began = time.monotonic()
        # To read everything twice would cost more than a start.
        if arguments.get("verify") != "full":
            answer = self._forecast(arguments, task_vars)
            # A run that would only write down what it hashed names sources, for it goes further than the first look.
            if answer.get("failed") or (not answer.get("changed") and not answer.get("sources")):
                return answer
            # Nothing to move and nothing to read: a link, an owner, an old revision.
            if not answer.get("files_fetched") and str(arguments.get("piece_bytes") or 0) == "0":
                return self._execute_directly(arguments, task_vars)
        else:
            answer = {}
        job = self._start(arguments, task_vars)
        if job.get("failed") or not job.get("results_file"):
            return job
        path = answer.get("path") or os.path.join(
            str(arguments.get("root") or _DEFAULT_ROOT), _model(arguments), "revision"
        )
        self._watch(job["results_file"], progress.progress_file(path), _model(arguments), task_vars, began)
        return self._result(job["results_file"], _model(arguments), task_vars)

    def _execute_directly(
        self, arguments: Mapping[str, Any], task_vars: dict[str, Any] | None, wrap_async: bool = False
    ) -> dict[str, Any]:
        answer: dict[str, Any] = self._execute_module(
            module_args=dict(arguments), task_vars=task_vars, wrap_async=wrap_async
        )
        return answer

    def _forecast(self, arguments: Mapping[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        """What the module would do, as far as one can tell without reading files: the job is to read them."""
        self._task.check_mode = True
        try:
            return self._execute_directly({**arguments, "read_in_check_mode": False}, task_vars)
        finally:
            self._task.check_mode = False

    def _start(self, arguments: Mapping[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        """Start the job; what it will return is in `results_file`, a file on the host."""
        # Only for this call: the executor would poll by itself afterwards, without a word.
        self._task.async_val = NO_LIMIT_SECONDS
        try:
            return self._execute_directly(arguments, task_vars, wrap_async=True)
        finally:
            self._task.async_val = 0

    def _watch(
        self, job_file: str, progress_file: str, model: str, task_vars: dict[str, Any] | None, began: float
    ) -> None:
        """Return when the job has ended; say how it stands meanwhile."""
        host = (task_vars or {}).get("inventory_hostname") or self._play_context.remote_addr
        heard = time.monotonic()
        script = progress.wait_script(job_file, progress_file, FIRST_STEPS, FIRST_STEP_SECONDS)
        missing = False
        while True:
            answer = progress.read_answer(self._ask(script, f"{host}: {model}"))
            if answer is not None and not answer.running:
                return
            if answer is None:
                raise AnsibleActionFail(
                    f"model_weights: {model}: the host does not say how far its job is; the job goes on, "
                    "and another run waits for it. `progress: false` does without."
                )
            now = time.monotonic()
            self._display.display(progress.progress_line(host, model, now - began, answer.progress))
            if answer.progress is not None:
                heard = now
            elif missing:
                # Looked for, not there, and no result since.
                self._ask(progress.remove_script(job_file), f"{host}: {model}")
                raise AnsibleActionFail(
                    f"model_weights: {model}: the job ended without a result, because the host was restarted or its "
                    f"processes were killed; what was fetched is kept, run the playbook again"
                )
            elif now - heard > SILENT_SECONDS:
                heard = now
                missing = progress.is_dead(self._ask(progress.alive_script(job_file), f"{host}: {model}"))
            script = progress.wait_script(job_file, progress_file, STEPS, STEP_SECONDS)

    def _ask(self, script: str, subject: str) -> str:
        """Run a small script on the host; over a broken network, again and again."""

        def ask() -> str:
            answer: dict[str, Any] = self._low_level_execute_command(script)  # type: ignore[no-untyped-call]
            return str(answer.get("stdout", ""))

        return str(self._patiently(ask, subject))

    def _patiently(self, act: Any, subject: str) -> Any:
        lost: float | None = None
        while True:
            try:
                return act()
            except AnsibleConnectionFailure:
                now = time.monotonic()
                lost = now if lost is None else lost
                if now - lost > UNREACHABLE_SECONDS:
                    raise
                self._display.display(
                    f"  ... {subject}: cannot be reached for {int(now - lost)} s, its job goes on without us"
                )
                time.sleep(PAUSE_SECONDS)
                # A master connection that hangs would answer the next question too.
                with contextlib.suppress(AnsibleError, AttributeError, OSError):
                    self._connection.reset()

    def _result(self, job_file: str, model: str, task_vars: dict[str, Any] | None) -> dict[str, Any]:
        """What the module returned; nothing stays on the host."""
        where, job = os.path.split(job_file)
        arguments = {"jid": job, "mode": "status", "_async_dir": where}
        answer: dict[str, Any] = self._patiently(
            lambda: self._execute_module(
                module_name="ansible.legacy.async_status", module_args=dict(arguments), task_vars=task_vars
            ),
            model,
        )
        with contextlib.suppress(AnsibleConnectionFailure):
            self._low_level_execute_command(progress.remove_script(job_file))  # type: ignore[no-untyped-call]
        return {key: value for key, value in answer.items() if key not in _OF_THE_JOB}


def _model(arguments: Mapping[str, Any]) -> str:
    lock = arguments.get("lock")
    return str(lock.get("model", "")) if isinstance(lock, Mapping) else ""
