#!/usr/bin/env bash
# uv.lock fits pyproject.toml, and names the public index and its file host, nothing else: uv writes down
# whatever index is configured when it locks.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
uv=.modelyard/uv/bin/uv
[ -x "$uv" ] || uv=uv
"$uv" lock --check --quiet || { echo "uv.lock is not of this pyproject.toml: run uv lock." >&2; exit 1; }
hosts=$(grep -oE 'https?://[^/"]+' uv.lock | sort -u)
if [ "$hosts" != "$(printf 'https://files.pythonhosted.org\nhttps://pypi.org')" ]; then
  echo "uv.lock names other hosts than the two public ones:" $hosts >&2
  exit 1
fi
