#!/usr/bin/env bash
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, baremetal.llm contributors
#
# tools/collection_tree.sh FOLDER
#
# Copies the checkout, as git would commit it now, to FOLDER/ansible_collections/baremetal/llm: tracked files with their
# present content and new files that are not ignored. ansible-test needs this path and takes ignored files for content.
set -euo pipefail

if [[ $# -ne 1 ]]; then
  echo "usage: ${0##*/} FOLDER" >&2
  exit 2
fi
destination="$(mkdir -p "$1" && cd "$1" && pwd)/ansible_collections/baremetal/llm"
cd "$(dirname "${BASH_SOURCE[0]}")/.."

list_files() {
  if git rev-parse --is-inside-work-tree >/dev/null 2>&1; then
    git ls-files -z --cached --others --exclude-standard
  else
    # A release tarball has no git: everything that the project does not make for itself.
    find . \( -name .cache -o -name .venv -o -name __pycache__ \) -prune -o \( -type f -o -type l \) -printf '%P\0'
  fi
}

existing_files() {
  local file
  while IFS= read -r -d '' file; do
    # A deleted file that is still tracked is listed too.
    if [[ -e $file || -L $file ]]; then printf '%s\0' "$file"; fi
  done
}

rm -rf "$destination"
mkdir -p "$destination"
list_files | existing_files | tar --create --null --no-recursion --files-from=- | tar --extract --directory="$destination"
echo "$destination"
