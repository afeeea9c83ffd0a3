#!/usr/bin/env bash
# The committed generated code is what protos/*.proto give today.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
mkdir "$fresh/protos"
cp -r protos/modelyard protos/generate.sh "$fresh/protos/"
find "$fresh/protos" -name '*_pb2*' -delete
PATH="$PWD/.venv/bin:$PATH" bash "$fresh/protos/generate.sh"
if ! diff -r --exclude=__pycache__ protos/modelyard "$fresh/protos/modelyard"; then
  echo "Generated code differs from its protos: run make protos." >&2
  exit 1
fi
