#!/usr/bin/env bash
# Locks each model environment for Python 3.11 and 3.12, with hashes and without the index's address.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
uv=../../.modelyard/uv/bin/uv
[ -x "$uv" ] || uv=uv
for input in */requirements.in; do
  "$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
    --custom-compile-command "make environments" "$input" --output-file "${input%.in}.txt"
done
