"""The installation is what the locks say: every package at its version, and what must be left out is out."""

import os
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name
from packaging.version import Version

REQUIREMENTS = Path(__file__).parents[1] / "requirements"
LEFT_OUT = ["torchvision", "torchaudio", "torchcodec"]
# Names, not just packages: most of these load their parts only when a name is asked for.
IMPORTS = """
import deepspeed, lancedb, ray.data, ray.serve, ray.train
from diffusers import AutoencoderKLCogVideoX, CogVideoXTransformer3DModel
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, T5EncoderModel
from vllm import LLM, AsyncLLMEngine
"""


def locked(name: str) -> dict[str, str]:
    """Name -> version of every package in a lock. Fails on a line that is anything but name==version or a comment."""
    packages: dict[str, str] = {}
    for line in (REQUIREMENTS / f"{name}.lock").read_text().splitlines():
        if line.startswith("#"):
            continue
        package, separator, version = line.partition("==")
        assert separator and package == canonicalize_name(package) and version == Version(version).public, line
        assert package not in packages, f"{package} stands twice in {name}.lock"
        packages[package] = version
    return packages


@pytest.mark.parametrize("name", ["cpu", "test", "gpu"])
def test_a_lock_is_names_and_versions(name):
    assert len(locked(name)) > 10


def test_no_package_stands_in_two_locks_that_are_installed_together():
    assert not locked("cpu").keys() & locked("test").keys()


@pytest.mark.parametrize("name", ["cpu", "test"])
def test_every_locked_package_is_installed_at_its_version(name):
    here = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]  # setuptools, imported, adds its own copies
    installed = {canonicalize_name(d.name): Version(d.version).public for d in metadata.distributions(path=here)}
    wrong = {p: (v, installed.get(p)) for p, v in locked(name).items() if installed.get(p) != v}
    assert not wrong, f"package: (locked, installed) {wrong}; run make install"


@pytest.mark.parametrize("package", LEFT_OUT)
def test_what_breaks_the_others_is_left_out(package):
    assert package not in locked("cpu") | locked("test")
    with pytest.raises(metadata.PackageNotFoundError):
        metadata.version(package)


@pytest.mark.timeout(900)  # 16 s of work, which can take minutes beside a training
def test_the_large_packages_import_together():
    # In a process of its own, so that this one stays small.
    environment = {**os.environ, "DS_ACCELERATOR": "cpu"}
    done = subprocess.run([sys.executable, "-c", IMPORTS], env=environment, capture_output=True, text=True, timeout=880)
    assert done.returncode == 0, done.stderr[-3000:]


def test_torch_is_the_cpu_build():
    assert metadata.version("torch").endswith("+cpu") or sys.platform != "linux"
