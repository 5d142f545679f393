#!/usr/bin/env bash
# Installs locks into VENV, one after the other:  install.sh cpu [test]
# A lock that is already in there as it stands costs a few milliseconds. PYTHON and TORCH_INDEX as in the Makefile.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${VENV:-.venv}
begun=$SECONDS

# Two makes at once (film and test) must not write into one folder together: the second waits, then finds all done.
if command -v flock >/dev/null; then
    exec 9<requirements/cpu.lock
    flock --nonblock 9 || { echo "Waiting for another installation into $venv" && flock 9; }
fi

# The name of the file that says that lock $1 is in there: it changes whenever something is to be installed again.
stamp() {
    echo "$venv/.installed-$1-$(cat "requirements/$1.lock" pyproject.toml | cksum | cut -d' ' -f1)"
}

# Reads pip's words, says now and then how far it has got ($1 is the number of packages), and marks $venv as unfinished
# once pip begins to unpack; until then it has changed nothing.
follow() {
    local line count=0
    while IFS= read -r line; do
        case $line in
        "Collecting "* | "Processing "* | *"already satisfied"*)
            count=$((count + 1))
            ((count % 40)) || echo "  fetched $count of $1 packages"
            ;;
        "Installing collected"*)
            touch "$venv/.unfinished"
            echo "  unpacking, which takes longest"
            ;;
        esac
    done
}

# Runs pip, keeps its words in a file, and shows the end of them when it fails.
# Build dependencies come from the lock too (PIP_CONSTRAINT reaches into pip's build environments).
pip_install() {
    local lock=requirements/$1.lock total
    shift
    total=$(grep -vc '^#' "$lock")
    if ! PIP_CONSTRAINT=$PWD/$lock "$venv/bin/python" -m pip install --no-deps --disable-pip-version-check \
        --progress-bar off ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} "$@" 2>&1 |
        tee "$venv/install.log" | follow "$total"; then
        tail -n 15 "$venv/install.log" >&2
        echo "pip failed; all it said is in $venv/install.log. Run make again when the cause is gone." >&2
        exit 1
    fi
}

# Stopped half-way, pip leaves packages that it later takes for whole. So an interrupted environment is made anew.
if [ -e "$venv/.unfinished" ]; then
    echo "The last installation into $venv was interrupted: starting again"
    # All but the mark, since this can be interrupted too.
    find "$venv" -mindepth 1 -maxdepth 1 ! -name .unfinished -exec rm -rf {} +
    rm "$venv/.unfinished"
fi

for name in "$@"; do
    done_file=$(stamp "$name")
    [ ! -e "$done_file" ] || continue
    python=$(bash requirements/check.sh)
    if [ ! -x "$venv/bin/python" ]; then
        mkdir -p "$venv"
        touch "$venv/.unfinished"
        if "$python" -c 'import ensurepip' 2>/dev/null; then
            "$python" -m venv "$venv"
        else # Debian packs ensurepip apart from Python; the system's pip can do its work.
            "$python" -m venv --without-pip "$venv"
            "$python" -m pip --python "$venv/bin/python" --disable-pip-version-check -q install pip==24.0
        fi
        rm "$venv/.unfinished"
    fi
    rm -f "$venv"/.installed-"$name"-*
    echo "Installing requirements/$name.lock into $venv"
    if [ "$name" = cpu ]; then
        # Torch alone first: where pip finds only the CUDA build, that comes out now and not after all the rest.
        pip_install cpu "$(grep '^torch==' requirements/cpu.lock)" >/dev/null
        build=$("$venv/bin/python" -c 'import importlib.metadata; print(importlib.metadata.version("torch"))')
        if [ "$(uname)" = Linux ] && [[ $build != *+cpu ]]; then
            echo "pip found a CUDA build of torch, which does not run without the CUDA libraries. Take the CPU build from" >&2
            echo "PyTorch's own index:  make install TORCH_INDEX=https://download.pytorch.org/whl/cpu" >&2
            exit 1
        fi
    fi
    pip_install "$name" -r "requirements/$name.lock"
    if [ "$name" = cpu ]; then
        pip_install cpu --no-build-isolation --editable . >/dev/null
    fi
    rm -f "$venv/.unfinished"
    touch "$done_file"
    echo "  done after $((SECONDS - begun)) s"
done
