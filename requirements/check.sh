#!/usr/bin/env bash
# Tests the five things that a machine must have before anything is installed: Python 3.11 with its headers, pip, git,
# make, and a C++ compiler. Names each one that is missing and says what to do. When nothing is missing it prints the
# path of Python 3.11: $PYTHON, or the first one found.
set -uo pipefail
missing=0

miss() {
    echo "missing: $1" >&2
    echo "    $2" >&2
    missing=1
}

python=
for candidate in ${PYTHON:-python3.11 python3 /usr/bin/python3.11 /usr/local/bin/python3.11}; do
    # The answer is the interpreter itself, since the name may stand for a version manager's wrapper.
    if python=$("$candidate" -c 'import sys; print(sys.executable) if sys.version_info[:2] == (3, 11) else sys.exit(1)' \
        2>/dev/null); then break; fi
done
if [ -z "$python" ]; then
    miss "Python 3.11${PYTHON:+ ($PYTHON is not)}" "Install it (Debian and Ubuntu: apt-get install python3.11 \
python3.11-dev python3.11-venv), or say where it is: make PYTHON=/path/to/python3.11"
else
    # vLLM and Triton compile small modules against Python.h when they run.
    [ -e "$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" ] ||
        miss "the headers of Python 3.11 (Python.h)" "Install them (Debian and Ubuntu: apt-get install python3.11-dev)."
    "$python" -c 'import ensurepip' 2>/dev/null || "$python" -m pip --version >/dev/null 2>&1 ||
        miss "pip for Python 3.11" "Install it (Debian and Ubuntu: apt-get install python3.11-venv python3-pip)."
fi
command -v git >/dev/null || miss "git" "Install it (Debian and Ubuntu: apt-get install git)."
command -v make >/dev/null || miss "make" "Install it (Debian and Ubuntu: apt-get install make)."
# torch calls the compiler by the name c++ or g++.
command -v c++ >/dev/null || command -v g++ >/dev/null ||
    miss "a C++ compiler (c++ or g++)" "Install one (Debian and Ubuntu: apt-get install g++)."
[ "$missing" = 0 ] && echo "$python"
