#!/usr/bin/env bash
# Generates Python beside each .proto; the gRPC plugins run for *_service.proto only.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
mapfile -t all < <(find protos/modelyard -name '*.proto' | sort)
mapfile -t services < <(find protos/modelyard -name '*_service.proto' | sort)
python -m grpc_tools.protoc -I protos --python_out=protos --mypy_out=quiet:protos "${all[@]}"
python -m grpc_tools.protoc -I protos --grpc_python_out=protos --mypy_grpc_out=quiet,only_async:protos "${services[@]}"
