"""`dreamrunner priors`: what was learned is listed, shown with its curve, and taken away; wrong names are refused."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from PIL import Image

from cluster.lease import Lease, holder
from cluster.store import Store
from engine.models import PriorSettings
from serving import cli

CARD = {
    "base": "miniature", "fingerprint": "f" * 64, "license": "Apache-2.0", "held_out": None, "seconds": 41.3,
    "settings": PriorSettings().model_dump(), "steps": 4, "kept_step": 3, "loss_before": 0.9, "loss_after": 0.5,
    "checks": [[0, 0.9], [2, 0.7], [3, 0.5], [4, 0.6]], "curve": [1.0, 0.8, 0.6, 0.5],
}  # fmt: skip
SPINS = {**CARD, "name": "spins around", "kind": "motion", "clips": [{"name": "a1", "caption": "a fox spins around"}]}
GHOST = {**CARD, "name": "ghost", "kind": "subject", "phrase": "[v1] ghost", "images": 1, "views": 24}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Two priors of one motion, and one subject."""
    store = Store(str(tmp_path / "store"))
    for key, card in (("aaaa1", SPINS), ("aaaa2", {**SPINS, "base": "miniature-plain"}), ("bbbb1", GHOST)):
        store.put("prior", key, {"card.json": json.dumps(card).encode(), "prior.safetensors": b"x" * 2000}, {})
    return store


def _run(store: Store, *arguments: str) -> int:
    return cli.main(["priors", *arguments, "--storage", store.url])


def test_all_are_listed(store: Store, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert _run(store, "list") == 0
    text = capsys.readouterr().out
    assert text.count("spins around") == 2 and "1 picture of [v1] ghost" in text
    assert "3 of 4" in text and "0.900 -> 0.500" in text and "bbbb1" in text


def test_a_storage_without_priors_says_so(tmp_path: Path, capsys) -> None:
    assert cli.main(["priors", "list", "--storage", str(tmp_path / "none")]) == 0
    assert "No prior" in capsys.readouterr().err


def test_a_prior_is_shown_with_its_curve(store: Store, tmp_path: Path, capsys) -> None:
    picture = tmp_path / "new" / "curve.png"
    assert _run(store, "show", "ghost", "--out", str(picture)) == 0
    text = capsys.readouterr().out
    assert "[v1] ghost" in text and "Apache-2.0" in text and text.strip().endswith("curve.png")
    with Image.open(picture) as drawn:
        assert drawn.width > 400 and len(drawn.convert("RGB").getcolors(10**6)) > 10
    assert _run(store, "show", "aaaa2", "--json") == 0
    assert json.loads(capsys.readouterr().out)["base"] == "miniature-plain"


def test_a_prior_that_is_removed_is_gone_and_nothing_else(store: Store, monkeypatch) -> None:
    monkeypatch.setattr("typer.confirm", lambda text: False)
    assert _run(store, "remove", "ghost") == 1
    assert store.record("prior", "bbbb1")
    assert _run(store, "remove", "ghost", "aaaa1", "--yes") == 0
    assert [store.record("prior", key) is None for key in ("aaaa1", "aaaa2", "bbbb1")] == [True, False, True]
    assert not store.list("results/prior/bbbb1") and holder(store) is None


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["show", "dragon"], "dragon.*none in.*spins around, ghost"),
        (["remove", "spins around"], "2 priors.*aaaa1, aaaa2"),
    ],
)
def test_names_that_mean_none_or_several_are_refused(store: Store, arguments: list[str], words: str, capsys) -> None:
    assert _run(store, *arguments) == 2
    assert re.search(words, capsys.readouterr().err.replace("\n", " "))


def test_nothing_is_removed_while_a_studio_is_at_work(store: Store, capsys) -> None:
    Lease(store, "a studio").acquire()
    assert _run(store, "remove", "ghost", "--yes") == 2
    assert f"process {os.getpid()}" in capsys.readouterr().err and store.record("prior", "bbbb1")
