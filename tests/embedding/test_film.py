"""Autoencoders on the simulated film: against as many principal components, on blocks held out."""

import statistics

import numpy as np
import pytest

from benchmarks.autoencoder import everything, explained, memory, trained
from phaseloom.embedding.film import polar_film

# share of the variance that a network must explain beyond principal components
BEYOND = {4: 0.01, 32: -0.002}


def judged(film, count: int, seed: int, epochs: int, **knobs: float):
    training, beside = trained(film, count, seed, epochs, **knobs)
    test = training.parts.test
    network, components = (everything(objective) for objective in (training.objective, beside))
    gain = explained(network[1][test], film.expected[test]) - explained(
        components[1][test], film.expected[test]
    )
    return gain, network[0]


@pytest.mark.medium
def test_four_latents_say_more_than_four_components():
    film = polar_film(grid=(24, 24), step=8.5, pixels=32, seed=0)
    assert judged(film, 4, 0, 6, batch=8, rate=2e-3)[0] > 0.01


@pytest.mark.slow
@pytest.mark.hours
@pytest.mark.parametrize("count", BEYOND)
def test_a_network_says_no_less_than_components_and_with_few_latents_more(count):
    gains = [judged(polar_film(pixels=32, seed=seed), count, seed, 8)[0] for seed in range(2)]
    assert statistics.mean(gains) > BEYOND[count]


@pytest.mark.slow
@pytest.mark.hours
def test_latents_of_small_patterns_are_as_many_numbers_as_they_are():
    gain, latents = judged(polar_film(pixels=64, seed=0), 32, 0, 2)
    assert gain > -0.002
    assert np.linalg.matrix_rank(latents - latents.mean(0), rtol=1e-2) >= 16


@pytest.mark.slow
@pytest.mark.hours
def test_memory_does_not_grow_with_the_scan():
    small, large = (memory(gigabytes) for gigabytes in (0.1, 0.8))
    assert large["patterns"] > 6 * small["patterns"]
    assert large["peak_bytes"] < small["peak_bytes"] + 0.5 * large["bytes"]
