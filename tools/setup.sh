#!/usr/bin/env bash
# Make the tool environment, with "hosts" also what throwaway hosts need from apt,
# with "newest-core" a second one with the newest ansible-core, with "oldest-python" one with the oldest Python that hosts
# may have. Safe to run again: seconds.
#
# usage: setup.sh [hosts] [newest-core] [oldest-python]
set -euo pipefail
cd "$(dirname "$0")/.."

as_root=()
[ "$(id -u)" = 0 ] || as_root=(sudo)

# Names that a distribution does not have (Ubuntu 22.04: netavark) are left out; its podman needs others then.
install_missing() {
  local wanted=() name
  for name in "$@"; do
    dpkg-query --show --showformat='${db:Status-Status}' "$name" 2>/dev/null | grep -qx installed || wanted+=("$name")
  done
  [ ${#wanted[@]} -gt 0 ] || return 0
  echo "==> Installing with apt: ${wanted[*]}"
  "${as_root[@]}" apt-get update -qq
  local available=()
  for name in "${wanted[@]}"; do
    apt-cache show "$name" >/dev/null 2>&1 && available+=("$name")
  done
  [ ${#available[@]} -gt 0 ] || return 0
  DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y -qq --no-install-recommends "${available[@]}" >/dev/null
}

command -v apt-get >/dev/null || { echo "setup: this needs Debian or Ubuntu (apt-get not found)" >&2; exit 1; }
# The tests build a stand-in for the vendor's GPU library from C.
install_missing git openssh-client python3-venv rsync ca-certificates gcc libc6-dev
if [[ " $* " == *" hosts "* ]]; then
  install_missing podman runc crun netavark aardvark-dns containernetworking-plugins iptables mmdebstrap debian-archive-keyring
fi

uv=.cache/uv/bin/uv
if [ ! -x "$uv" ] || ! cmp -s requirements/uv.txt .cache/uv/requirements.txt; then
  echo "==> Installing uv"
  /usr/bin/python3 -m venv --clear .cache/uv
  .cache/uv/bin/pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r requirements/uv.txt
  cp requirements/uv.txt .cache/uv/requirements.txt
fi

# environment FOLDER LOCK PYTHON
environment() {
  local folder=$1 lock=$2 python=$3
  if [ ! -x "$folder/bin/python" ] || ! cmp -s "$lock" "$folder/requirements.txt"; then
    echo "==> Making the tool environment $folder"
    "$uv" venv --quiet --clear --python "$python" "$folder"
    "$uv" pip sync --quiet --python "$folder/bin/python" --require-hashes "$lock"
    cp "$lock" "$folder/requirements.txt"
  fi
}
# A Python that is here is taken; where none fits (Ubuntu 22.04), uv fetches one.
environment .venv requirements/core-2.19.txt '>=3.11,<3.14'

# The collection under its own name, so that roles and modules are found as baremetal.llm.*.
mkdir -p .cache/collections/ansible_collections/baremetal
ln -sfn ../../../.. .cache/collections/ansible_collections/baremetal/llm

# pyenv keeps its Pythons where uv does not look.
python() {
  local found
  found=$(find "$HOME/.pyenv/versions" -maxdepth 1 -name "$1.*" 2>/dev/null | sort -V | tail -n 1 || true)
  if [ -n "$found" ]; then echo "$found/bin/python"; else echo "$1"; fi
}
if [[ " $* " == *" newest-core "* ]]; then
  environment .cache/core-2.21 requirements/core-2.21.txt "$(python 3.13)"
fi
if [[ " $* " == *" oldest-python "* ]]; then
  environment .cache/python-3.9 requirements/host-python.txt "$(python 3.9)"
fi
