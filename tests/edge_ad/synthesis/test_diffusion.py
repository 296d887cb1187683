import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from edge_ad.config import DiffusionConfig
from edge_ad.errors import ArtifactError, ConfigError
from edge_ad.synthesis.diffusion import (
    SampleRequest,
    batch_sampler,
    build_network,
    is_trained,
    load_model,
    predicted_noise,
    respaced_timesteps,
    reverse_step,
    sample,
    sampler_settings,
    save_model,
    to_frames,
    to_tensor,
    training_target,
)
from edge_ad.synthesis.generated import CacheIndex, GeneratedImages, fill_cache, read_index

torch.set_num_threads(1)  # many threads on few free cores make small networks many times slower

TINY = replace(DiffusionConfig.at(32), resolution=16, channels=(8, 16), sample_steps=4)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return build_network(TINY).eval()


def cumulative():
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    return torch.cumprod(1 - betas, 0)


@pytest.mark.parametrize("time", [950, 500, 50, 0])
def test_undisturbed_steps_are_diffusers(time):
    """s = 0 is diffusers' ancestral step; with ddim it is its DDIM step with eta = 0."""
    levels, spacing = cumulative(), 50
    before = float(levels[time - spacing]) if time >= spacing else 1.0
    generator = torch.Generator().manual_seed(1)
    x_t, noise = torch.randn((2, 2, 3, 8, 8), generator=generator)
    z = torch.randn(x_t.shape, generator=torch.Generator().manual_seed(2))
    common = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}

    ancestral = DDPMScheduler(**common)
    ancestral.set_timesteps(1000 // spacing)
    theirs = ancestral.step(noise, time, x_t, generator=torch.Generator().manual_seed(2)).prev_sample
    ours = reverse_step(x_t, noise, z, float(levels[time]), before, 0.0)
    assert (ours - theirs).abs().max() < 2e-5

    ddim = DDIMScheduler(**common, set_alpha_to_one=True)
    ddim.set_timesteps(1000 // spacing)
    theirs = ddim.step(noise, time, x_t, eta=0.0).prev_sample
    ours = reverse_step(x_t, noise, z, float(levels[time]), before, 0.0, "ddim")
    assert (ours - theirs).abs().max() < 2e-5


def test_perturbations_have_the_variance_they_state():
    now, before, s = 0.5, 0.7, 0.2
    x_t, noise = torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)
    one = torch.ones(1, 1, 1, 1)
    sigma = ((1 - before) / (1 - now) * (1 - now / before)) ** 0.5
    for mode, spread in {
        "scale": (1 + s) ** 0.5 * sigma,
        "add": (sigma**2 + s**2) ** 0.5,
        "ddim": s**0.5 * sigma,
    }.items():
        still = reverse_step(x_t, noise, 0 * one, now, before, s, mode)
        moved = reverse_step(x_t, noise, one, now, before, s, mode)
        assert float(moved - still) == pytest.approx(spread, rel=1e-6)
        last = reverse_step(x_t, noise, 0 * one, now, 1.0, s, mode)
        assert torch.equal(reverse_step(x_t, noise, one, now, 1.0, s, mode), last)
    with pytest.raises(ValueError, match="unknown perturbation"):
        reverse_step(x_t, noise, one, now, before, s, "sacle")


@pytest.mark.parametrize("predicts", ["v", "noise"])
def test_a_right_answer_gives_back_the_noise(predicts):
    config = replace(TINY, predicts=predicts)
    x0, noise = torch.randn((2, 3, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    times = torch.tensor([5, 400, 999])
    levels = cumulative().float()[times]
    scheduler = DDPMScheduler(beta_start=1e-4, beta_end=0.02, beta_schedule="linear")
    x_t = scheduler.add_noise(x0, noise, times)
    answer = training_target(config, x0, noise, levels)
    if predicts == "v":
        torch.testing.assert_close(answer, scheduler.get_velocity(x0, noise, times), atol=1e-5, rtol=1e-4)
    for one, level in enumerate(levels.tolist()):
        found = predicted_noise(config, answer[one], x_t[one], level)
        torch.testing.assert_close(found, noise[one], atol=1e-5, rtol=1e-4)


def test_times_run_down_to_zero():
    times = respaced_timesteps(DiffusionConfig())
    assert len(times) == 20
    assert (times[0], times[-1]) == (999, 0)
    part = respaced_timesteps(replace(DiffusionConfig(), start=0.4))
    assert (part[0], part[-1], len(part)) == (399, 0, 8)
    with pytest.raises(ConfigError):
        respaced_timesteps(replace(DiffusionConfig(), start=0.0))


def test_frames_survive_the_round_trip():
    frames = list(np.random.default_rng(0).integers(0, 256, (2, 6, 5, 3), dtype=np.uint8))
    assert all(np.array_equal(a, b) for a, b in zip(to_frames(to_tensor(frames)), frames, strict=True))


@pytest.mark.parametrize("mode", ["scale", "add", "ddim"])
def test_samples_depend_on_their_own_seed_only(network, mode):
    config = replace(TINY, perturbation=mode)
    both = sample(network, config, [SampleRequest(1, 0.1), SampleRequest(2, 0.2)])
    alone = sample(network, config, [SampleRequest(2, 0.2)])
    assert both[0].shape == (16, 16, 3)
    assert np.abs(both[1].astype(int) - alone[0]).max() <= 1  # batches may sum in another order
    stronger = sample(network, config, [SampleRequest(2, 2.0)])
    assert np.abs(alone[0].astype(int) - stronger[0]).mean() > 1


def test_sampling_can_start_from_a_normal_image(network):
    config = replace(TINY, start=0.3)
    origin = np.full((16, 16, 3), 200, np.uint8)
    assert sample(network, config, [SampleRequest(1, 0.1, origin)])[0].shape == (16, 16, 3)
    with pytest.raises(ConfigError, match="normal image"):
        sample(network, config, [SampleRequest(1, 0.1)])
    ((_, s, number),) = batch_sampler(network, config, [origin])([5])
    assert number == 0
    assert 0.1 <= s <= 0.2


def test_models_are_checked_when_loaded(network, tmp_path):
    digest = save_model(network, TINY, tmp_path)
    again, config, read = load_model(tmp_path)
    assert (config, read) == (TINY, digest)
    a, b = (sample(net, TINY, [SampleRequest(3, 0.1)])[0] for net in (network, again))
    assert np.array_equal(a, b)
    weights = tmp_path / "weights.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(ArtifactError, match="damaged"):
        load_model(tmp_path)
    with pytest.raises(ArtifactError, match="no diffusion model"):
        load_model(tmp_path / "none")


def test_impossible_sizes_are_refused():
    with pytest.raises(ConfigError, match="don't go together"):
        build_network(replace(TINY, resolution=17))
    with pytest.raises(ConfigError, match="no diffusion model for 48"):
        DiffusionConfig.at(48)


@pytest.mark.parametrize("resolution", [32, 64, 128, 256])
def test_all_sizes_fit_together(resolution):
    with torch.device("meta"):
        network = build_network(DiffusionConfig.at(resolution))
    assert sum(p.numel() for p in network.parameters()) > 1e5


def fill(network, folder, count, **changes):
    said = []
    index = CacheIndex(changes.pop("checkpoint", "abc"), sampler_settings(TINY), 3)
    rejected = fill_cache(folder, index, count, batch_sampler(network, TINY, []), say=said.append, **changes)
    return said, rejected


def test_cache_keeps_what_is_whole_and_mends_what_is_not(network, tmp_path):
    fill(network, tmp_path, 3)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    index = read_index(tmp_path)
    assert [record.seed - index.images[0].seed for record in index.images] == [0, 1, 2]
    assert fill(network, tmp_path, 3) == ([], Counter())
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    victim = tmp_path / index.images[1].file
    victim.write_bytes(victim.read_bytes()[:-20])
    with pytest.raises(ArtifactError, match="damaged"):
        GeneratedImages(tmp_path).image(1)
    said, _ = fill(network, tmp_path, 3)
    assert len(said) == 1
    assert "sha256 differs" in said[0]
    mended = GeneratedImages(tmp_path).image(1)
    assert mended.shape == (16, 16, 3)

    said, _ = fill(network, tmp_path, 5)  # more: the first three stay
    assert said == []
    assert len(GeneratedImages(tmp_path)) == 5
    assert read_index(tmp_path).images[0] == index.images[0]

    said, _ = fill(network, tmp_path, 2, checkpoint="other")
    assert "another model" in said[0]
    (tmp_path / "images.json").write_text("{")
    said, _ = fill(network, tmp_path, 2)
    assert "damaged" in said[0]


def test_rejected_images_are_counted(network, tmp_path):
    seen = []

    def reject(frame):
        seen.append(frame)
        return "odd" if len(seen) % 2 else None

    _, rejected = fill(network, tmp_path, 3, reject=reject)
    assert rejected["odd"] >= 3
    assert len(GeneratedImages(tmp_path)) == 3
    with pytest.raises(ArtifactError, match="were rejected"):
        fill(network, tmp_path / "b", 2, reject=lambda frame: "always")


def test_generated_images_fit_the_frame(network, tmp_path):
    fill(network, tmp_path, 2)
    anomaly = GeneratedImages(tmp_path)(np.zeros((20, 31, 3), np.uint8), np.random.default_rng(0))
    assert anomaly.shape == (20, 31, 3)
    with pytest.raises(ArtifactError, match="no generated images"):
        GeneratedImages(tmp_path / "none")


def test_a_model_that_does_not_say_what_it_predicts_predicts_noise(network, tmp_path):
    save_model(network, TINY, tmp_path, step=10**6)
    record = json.loads((tmp_path / "diffusion.json").read_text())
    assert load_model(tmp_path)[1].predicts == "v"
    del record["diffusion"]["predicts"]
    (tmp_path / "diffusion.json").write_text(json.dumps(record))
    assert load_model(tmp_path)[1].predicts == "noise"
    assert not is_trained(tmp_path, TINY)  # it is no model of these settings
    assert is_trained(tmp_path, replace(TINY, predicts="noise"))
