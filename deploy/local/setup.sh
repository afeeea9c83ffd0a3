#!/usr/bin/env bash
# Makes .venv from uv.lock. uv of the pinned version is taken from PATH or put into .modelyard/uv.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

say() { echo "$*" >&2; }

is_right_uv() { [ "$("$1" --version 2>/dev/null | cut -d' ' -f2)" = "$UV_VERSION" ]; }

# A candidate must run and have venv: a launcher of a version that is not installed does neither.
find_python() {
  local candidate
  for candidate in ${PYTHON:-} python3.12 python3.11 python3; do
    if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null; then
      "$candidate" -c 'import sys; print(sys.executable)'
      return
    fi
  done
  say "Python 3.11 or 3.12 with venv is missing: install python3 and python3-venv (or set PYTHON=/path/to/python3.12)."
  return 1
}

: "${UV_VERSION:?set by the Makefile}"
export UV_PYTHON_DOWNLOADS=never

# An environment that exists keeps its interpreter: changing it would remove the environment under
# whoever uses it.
if [ -x .venv/bin/python ] && .venv/bin/python -c 'import sys' 2>/dev/null; then
  python=$(.venv/bin/python -c 'import sys, os; print(os.path.realpath(sys.executable))')
else
  python=$(find_python)
fi

uv=.modelyard/uv/bin/uv
if ! is_right_uv "$uv"; then
  if command -v uv >/dev/null && is_right_uv uv; then
    uv=$(command -v uv)
  else
    say "Fetching uv $UV_VERSION into .modelyard/uv."
    "$python" -m venv --clear .modelyard/uv || { say "Python's venv is missing: install python3-venv."; exit 1; }
    .modelyard/uv/bin/python -m pip install --quiet --disable-pip-version-check "uv==$UV_VERSION"
  fi
fi
[ -x .venv/bin/python ] || say "Installing the platform's packages into .venv (400 MB, once)."
exec "$uv" sync --frozen --quiet --python "$python"
