#!/usr/bin/env bash
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, baremetal.llm contributors
#
# tools/sanity.sh [ARGUMENT ...]
#
# Runs `ansible-test sanity` with the given arguments over a copy of the checkout, without containers. TOOLS names the
# tool environment (default .venv); its Python is the controller's. The modules are also checked with the oldest Python
# that they support, if the machine has it. The project's own programs (tools/, benchmarks/) are no part of the
# collection: ruff and mypy check them.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
tools="$(cd "$root" && cd "${TOOLS:-.venv}" && pwd)"
work="$root/.cache/sanity"
oldest_python=3.9

# One run at a time: the copy is made anew by each.
mkdir -p "$work"
exec 9>"$work/lock"
flock 9

# ansible-test keeps its environments in the home folder and fills them with a script that it downloads. Both stay in
# .cache: nothing is left in the user's home and a machine without that download can still run the checks.
home="$work/home"
mkdir -p "$home/.ansible/test/cache" "$home/.config/pip" "$home/.pip"
user_home="${HOME:-/root}"
[[ ! -e $user_home/.netrc ]] || ln -sf "$user_home/.netrc" "$home/.netrc"
# pip reads both places, this one first.
for settings in .pip/pip.conf .config/pip/pip.conf; do
  [[ ! -e $user_home/$settings ]] || ln -sf "$user_home/$settings" "$home/.pip/pip.conf"
done

controller_python="$("$tools/bin/python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')"

"$tools/bin/python" - "$home" <<'PYTHON'
"""Prepare pip for ansible-test.

Put a bootstrap script for every pip version that ansible-test wants into its cache: Python's own ensurepip brings a pip
along, and that pip installs the wanted version from the index that the machine is configured for. Keep the caller's
settings of pip (index, CA certificates): ansible-test passes on no environment variables, so they go into a file.
"""
import os
import pathlib
import re
import sys

import ansible_test

SCRIPT = '''\
import subprocess
import sys

# In a process of its own: it switches pip's settings off in the environment it runs in.
subprocess.check_call([sys.executable, "-m", "ensurepip", "--default-pip"])
arguments = [argument for argument in sys.argv[1:] if argument not in ("--no-setuptools", "--no-wheel")]
sys.exit(subprocess.call([sys.executable, "-m", "pip", "install", "--upgrade", *arguments]))
'''

home = pathlib.Path(sys.argv[1])
cache = home / ".ansible" / "test" / "cache"
(package,) = ansible_test.__path__
source = pathlib.Path(package, "_internal", "python_requirements.py").read_text(encoding="utf-8")
versions = set(re.findall(r"""\bpip=['"]([\d.]+)['"]""", source))
if not versions:
    sys.exit("tools/sanity.sh: found no pip version in ansible-test; adapt the bootstrap")
for version in versions:
    (cache / f"get_pip_{version.replace('.', '_')}.py").write_text(SCRIPT, encoding="utf-8")

settings = {
    name[4:].lower().replace("_", "-"): value
    for name, value in sorted(os.environ.items())
    if name.startswith("PIP_") and name not in ("PIP_CONFIG_FILE", "PIP_REQUIRE_VIRTUALENV")
}
for name in ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "CURL_CA_BUNDLE"):
    if os.environ.get(name):
        settings.setdefault("cert", os.environ[name])
lines = ["[global]", *(f"{name} = {value}" for name, value in settings.items())]
path = home / ".config" / "pip" / "pip.conf"
path.write_text("\n".join(lines) + "\n", encoding="utf-8")
# An index URL may carry a password.
path.chmod(0o600)
PYTHON

# Where to look for Pythons, ansible-test's way: pythonX.Y on the PATH. pyenv's shims refuse versions that are not selected.
path="$tools/bin"
targets=("$controller_python")
for version in "$controller_python" "$oldest_python"; do
  for folder in "${PYENV_ROOT:-$user_home/.pyenv}"/versions/"$version".*/bin; do
    if [[ -x $folder/python$version ]]; then path="$path:$folder"; fi
  done
done
path="$path:$PATH"
if PATH="$path" "python$oldest_python" -c 'import venv, ensurepip' 2>/dev/null; then
  targets+=("$oldest_python")
else
  echo "sanity: no Python $oldest_python on this machine; modules are checked with Python $controller_python only" >&2
fi

tree="$("$root/tools/collection_tree.sh" "$work")"
rm -rf "$tree/tools" "$tree/benchmarks"
cd "$tree"
# Without this, ansible-test asks the git of the checkout around the copy, which ignores .cache.
export ANSIBLE_TEST_CONTENT_ROOT="$tree"
export HOME="$home" PATH="$path"
arguments=(--controller "origin:python=$controller_python")
for version in "${targets[@]}"; do arguments+=(--target-python "$version"); done
exec "$tools/bin/ansible-test" sanity --color no "${arguments[@]}" "$@"
