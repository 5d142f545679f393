"""What jobs are expected to cost, and what a model needs."""

from __future__ import annotations

import pytest

from cluster.estimates import job_cost
from engine.errors import InputError
from engine.models import load_bundle
from engine.settings import ExecutionPlan
from tests.conftest import small_request


def test_every_scene_has_a_cost_and_two_workers_make_it_sooner() -> None:
    bundle = load_bundle("miniature")
    two = ExecutionPlan(device="cpu", dtype="float32", threads=1, guidance_degree=2)
    alone, both = (small_request(execution=e) if e else small_request() for e in (None, two))
    for one, pair in zip(alone.film(alone.plan).scenes, both.film(both.plan).scenes, strict=True):
        assert job_cost(pair, bundle).seconds < job_cost(one, bundle).seconds


def test_a_motion_unknown_to_the_model_costs_a_prior_and_a_subject_costs_its_few_frames() -> None:
    bundle = load_bundle("miniature")
    request = small_request(learn=True, known_motions=(), prior_settings=bundle.priors)
    film = request.film(request.plan)
    motion = film.priors[0]
    subject = motion.model_copy(update={"of": "subject"})
    whole = subject.model_copy(update={"settings": bundle.priors.model_copy(update={"subject_frames": None})})
    assert job_cost(motion, bundle).seconds > 0
    assert 3 < job_cost(whole, bundle).seconds / job_cost(subject, bundle).seconds < 7  # of six frames one is learned
    assert job_cost(film.clips[0], bundle) is None


def test_sizes_come_from_configs_or_from_the_bundle() -> None:
    assert load_bundle("miniature").shape.visual == 6 * 8 * 14
    hub = load_bundle("cogvideox-2b").shape
    assert (hub.heads, hub.visual) == (30, 12 * 30 * 45)


def test_a_gpu_that_is_too_small_is_refused_with_the_numbers() -> None:
    bundle = load_bundle("cogvideox-2b")
    bundle.check_gpu(80, "H100")
    with pytest.raises(InputError, match=r"cogvideox-2b needs 15\.8 GB .* but T4 has 14\.0"):
        bundle.check_gpu(14, "T4")
