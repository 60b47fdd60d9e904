# shellcheck shell=bash
# What scripts/demo and scripts/test share: finding Python and uv, and making .venv from uv.lock.
# Sourced, never run. Works with the bash 3.2 of macOS.

# The caller sets `root` to the repository's directory.
: "${root:?}"
cache="$root/.cache"
venv="$root/.venv"

# The uv that is fetched where there is none in PATH; uv.lock was written by this one.
UV_VERSION=0.13.9

# The caller's own virtual environment and modules play no part.
unset VIRTUAL_ENV UV_PROJECT_ENVIRONMENT PYTHONPATH PYTHONHOME PYTHONSTARTUP
# Without .pyc files each Dask process compiles some thousand modules again: seconds for every worker.
unset PYTHONDONTWRITEBYTECODE
# Use the Python of the machine; where there is none, say so instead of downloading one.
export UV_PYTHON_DOWNLOADS=never

say() { printf '%s\n' "$*"; }

# die MESSAGE ADVICE: what went wrong, what to do, and the end.
die() {
    printf 'error: %s\n' "$1" >&2
    if [ $# -gt 1 ]; then printf '       %s\n' "$2" >&2; fi
    exit 1
}

# Prints the first interpreter of version 3.11 or newer.
find_python() {
    local name
    for name in "${PYTHON:-python3}" python3.14 python3.13 python3.12 python3.11 python; do
        if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
            # sys.executable sees through shims (pyenv) whose meaning depends on the directory.
            "$name" -c 'import sys; print(sys.executable)'
            return 0
        fi
    done
    return 1
}

# Puts the path of a working uv into `uv`, fetching one into .cache when there is none.
find_uv() {
    local python="$1" home="$cache/uv-$UV_VERSION"
    # An old uv knows no dependency groups.
    case $(uv sync --help 2>/dev/null) in
        *--no-default-groups*)
            uv=$(command -v uv)
            return 0
            ;;
    esac
    uv="$home/bin/uv"
    if "$uv" --version >/dev/null 2>&1; then return 0; fi
    say "fetching uv $UV_VERSION (once)"
    rm -rf "$home"
    if "$python" -m venv "$home" >"$cache/uv.log" 2>&1; then
        "$home/bin/python" -m pip install --quiet "uv==$UV_VERSION" >>"$cache/uv.log" 2>&1 || uv_failed
    elif "$python" -m pip --version >/dev/null 2>&1; then
        # Debian's python3 comes without ensurepip; pip alone is enough.
        "$python" -m pip install --quiet --target "$home" "uv==$UV_VERSION" >>"$cache/uv.log" 2>&1 || uv_failed
    else
        die "Python's venv module does not work here, and neither uv nor pip is installed." \
            "Install one of them, for example: apt-get install python3-venv"
    fi
    "$uv" --version >/dev/null 2>&1 || uv_failed
}

uv_failed() {
    tail -n 15 "$cache/uv.log" >&2
    die "uv $UV_VERSION could not be fetched; the end of $cache/uv.log is above." \
        "Is the package index reachable (proxy, certificates)? Or install uv yourself and run this again."
}

# make_venv ARGUMENTS…: brings .venv to what uv.lock says; the arguments choose extras and groups.
make_venv() {
    local python stamp known=""
    mkdir -p "$cache" 2>/dev/null || die "$root is not writable." "Make a copy of it that belongs to you."
    python=$(find_python) || die "Python 3.11 or newer was not found." \
        "Install it, or name it: PYTHON=/path/to/python3.12 $0"
    find_uv "$python"
    if ! "$venv/bin/python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
        export UV_PYTHON="$python"
    fi
    stamp="$(cksum <"$root/uv.lock") $*"
    if [ -f "$venv/.ropewalk-lock" ]; then known=$(cat "$venv/.ropewalk-lock"); fi
    if [ "$stamp" = "$known" ]; then
        set -- "$@" --quiet
    else
        # Compiling takes seconds once; not compiling costs them at every start of a node.
        set -- "$@" --compile-bytecode
        if [ ! -t 2 ]; then set -- "$@" --quiet; fi
    fi
    "$uv" sync --directory "$root" --frozen "$@" ||
        die "uv could not install what uv.lock lists; its message is above." \
            "Is the package index reachable? Is there room on the disk (1 GiB)?"
    printf '%s\n' "$stamp" >"$venv/.ropewalk-lock"
}
