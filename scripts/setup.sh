#!/bin/sh
# Makes .venv and installs requirements.lock and the project into it. Called by `make setup`; safe to run again.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
bin=.venv/bin

fail() {
    echo "quantkit setup: $*" >&2
    exit 1
}

if ! [ -x $bin/python ] || ! $bin/python -m pip --version >/dev/null 2>&1; then
    command -v "$python" >/dev/null || fail "no '$python' found: install Python 3.11 to 3.13, or name one: make PYTHON=python3.12"
    "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' ||
        fail "needs Python 3.11 to 3.13, got $("$python" -V 2>&1): name another one: make PYTHON=python3.12"
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "'$python -m venv' cannot work without ensurepip: install it (Debian, Ubuntu: apt-get install python3-venv)"
    "$python" -m venv .venv
fi

if command -v uv >/dev/null && uv --version >/dev/null 2>&1; then
    uv=uv
else
    uv=$bin/uv
    [ -x $uv ] || $bin/python -m pip install --quiet --disable-pip-version-check 'uv>=0.8'
fi

# uv does not read pip's settings: hand over the wheels and the index that pip knows of.
of_pip() { $bin/python -m pip config get "$1" 2>/dev/null || true; }
if [ -z "${UV_FIND_LINKS:-}" ]; then
    links=$(echo ${PIP_FIND_LINKS:-$(of_pip global.find-links)} | tr ' ' ',')
    [ -z "$links" ] || export UV_FIND_LINKS="$links"
fi
if [ -z "${UV_DEFAULT_INDEX:-}" ]; then
    index=${PIP_INDEX_URL:-$(of_pip global.index-url)}
    [ -z "$index" ] || export UV_DEFAULT_INDEX="$index"
fi

install() { $uv pip install $quiet --python $bin/python "$@"; }
quiet=--quiet

# On Linux the index's torch brings gigabytes of CUDA; PyTorch's own index has the CPU build. For a GPU:
# UV_TORCH_BACKEND=auto make setup
if [ "$(uname -s)" = Linux ] && quiet= install --dry-run -r requirements.lock 2>&1 | grep -q '+ nvidia-'; then
    echo "quantkit setup: asking PyTorch's index for the ${UV_TORCH_BACKEND:-cpu} build of torch"
    install --torch-backend "${UV_TORCH_BACKEND:-cpu}" -r requirements.lock ||
        { echo "quantkit setup: not in reach, taking the package index's build with CUDA" >&2 && install -r requirements.lock; }
else
    install -r requirements.lock
fi
install --no-deps --no-build-isolation --editable .
