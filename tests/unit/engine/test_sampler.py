"""Sampling values reach the native arrays in the types and the order it reads."""

import numpy as np

from headrace.core.request import Sampling
from headrace.engine.sampler import SamplingTable


def test_rows_come_in_the_order_of_the_slots_asked_for() -> None:
    table = SamplingTable(4)
    table.set(1, Sampling(temperature=0.5, top_k=7, top_p=0.25, min_p=0.125, typical_p=0.75), seed=11, choice=2)
    table.set(3, Sampling(temperature=0.0), seed=12, choice=0)
    rows = table.gather(np.array([3, 1]), np.array([9, 8], np.uint32))
    assert rows["temperature"].tolist() == [0.0, 0.5]
    assert rows["top_k"].tolist() == [0, 7]
    assert rows["top_p"].tolist() == [1.0, 0.25]
    assert rows["min_p"].tolist() == [0.0, 0.125]
    assert rows["typical_p"].tolist() == [1.0, 0.75]
    assert rows["seed"].tolist() == [12, 11]
    assert rows["choice"].tolist() == [0, 2]
    assert rows["position"].tolist() == [9, 8]


def test_every_seed_that_a_request_may_carry_fits_64_bits() -> None:
    table = SamplingTable(3)
    for slot, seed in enumerate((-1, 2**64 - 1, -(2**63))):
        table.set(slot, Sampling(), seed=seed, choice=0)
    seeds = table.gather(np.arange(3), np.zeros(3, np.uint32))["seed"]
    assert seeds.tolist() == [2**64 - 1, 2**64 - 1, 2**63]
