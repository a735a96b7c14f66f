#!/usr/bin/env bash
# Make the hashed requirements files anew from their .in files. PyTorch's CPU wheel is looked for where pip looks, too.
set -euo pipefail
cd "$(dirname "$0")/.."

# compile PYTHON IN OUT [OPTION ...]
compile() {
  local python=$1 in=$2 out=$3
  shift 3
  echo "==> $out"
  .cache/uv/bin/uv pip compile --quiet --no-emit-index-url --no-emit-find-links --generate-hashes \
    --custom-compile-command 'make locks' --python-version "$python" --output-file "$out" "$@" "$in"
}

compile 3.9 requirements/uv.in requirements/uv.txt --universal
compile 3.9 requirements/host-python.in requirements/host-python.txt --universal
compile 3.11 requirements/pip.in requirements/pip.txt --universal
compile 3.11 requirements/core-2.19.in requirements/core-2.19.txt --universal
compile 3.12 requirements/core-2.21.in requirements/core-2.21.txt --universal
