"""Counts against thresholds: who is flagged when, what goes on, what a slow drip gets, and who is new."""

import json
from dataclasses import replace

import pytest

from headrace.core.errors import RateLimited
from headrace.core.request import FormatKind as Kind
from headrace.core.request import Principal, Request, ResponseFormat, Sampling
from headrace.trust.monitors.theft.counts import DAY_S
from headrace.trust.monitors.theft.monitor import TheftMonitor, account_of
from headrace.trust.monitors.theft.settings import Mode, TheftSettings
from headrace.trust.monitors.theft.steering import UNSTEERED, steering_of, steering_of_fields

SETTINGS = TheftSettings(mode=Mode.ENFORCE)
WHO = Principal(tenant="t", key="k", subject="key:k")
SECRET = b"secret"
NOON = 20_000 * DAY_S + DAY_S / 2


def biased(number: int, prompt: str = "x", **about: object) -> Request:
    sampling = Sampling(logit_bias=((number, 50.0),))
    return replace(Request(id="r", model="m", prompt=prompt, sampling=sampling), **about)  # type: ignore[arg-type]


def is_answered(monitor: TheftMonitor, request: Request, who: Principal = WHO, unix_s: float = NOON) -> bool:
    judgement = monitor.judge(who, steering_of(request, SECRET), unix_s)
    assert judgement.refusal is None or isinstance(judgement.refusal, RateLimited)
    return judgement.refusal is None


def test_the_defaults_flag_a_probe_before_a_tenth_of_a_hidden_size_of_576() -> None:
    for prompts in (["one input"], [f"input {number}" for number in range(100)]):
        monitor = TheftMonitor(SETTINGS, SECRET)
        number = 0
        while not monitor.flags():
            is_answered(monitor, biased(number, prompts[number % len(prompts)]))
            number += 1
        assert number < 57


def test_a_slow_drip_gets_what_a_day_allows_and_no_day_allows_a_row() -> None:
    monitor = TheftMonitor(SETTINGS, SECRET)
    num_answered = 0
    for day in range(30):
        for number in range(40):
            num_answered += is_answered(monitor, biased(1000 * day + number), unix_s=NOON + day * DAY_S)
    assert num_answered == 30 * SETTINGS.prompt_bias_vectors  # bisecting one logit takes as many
    monitor = TheftMonitor(SETTINGS, SECRET)
    for day in range(30):
        for number in range(SETTINGS.prompt_bias_vectors):
            assert is_answered(monitor, biased(1000 * day + number), unix_s=NOON + day * DAY_S)
    assert not monitor.flags()  # who stays below is not flagged: the threshold is what it gets


def test_a_new_principal_begins_with_a_part_and_who_was_there_before_does_not() -> None:
    monitor = TheftMonitor(replace(SETTINGS, bias_vectors=10, prompt_bias_vectors=1000), SECRET)
    old, new = WHO, replace(WHO, key="new", subject="key:new")

    def num_answered(who: Principal, day: float) -> int:
        return sum(is_answered(monitor, biased(number), who, NOON + day * DAY_S) for number in range(30))

    assert num_answered(old, 0.0) == 10
    assert num_answered(new, 2.0) == 5
    assert num_answered(new, 6.0) == 7
    assert num_answered(new, 20.0) == 10
    assert num_answered(old, 20.0) == 10


def test_one_tenants_keys_share_what_a_tenant_may_try() -> None:
    monitor = TheftMonitor(replace(SETTINGS, tenant_bias_vectors=20, prompt_bias_vectors=1000), SECRET)
    answered = [
        is_answered(monitor, biased(number), replace(WHO, key=f"k{number % 10}", subject=f"key:k{number % 10}"))
        for number in range(60)
    ]
    assert sum(answered) == 20
    assert all(answered[:20])
    assert is_answered(monitor, biased(900), replace(WHO, tenant="u"))


def test_a_user_with_somebodys_key_counts_under_both() -> None:
    monitor = TheftMonitor(replace(SETTINGS, bias_vectors=6, prompt_bias_vectors=1000, ramp_share=1.0), SECRET)
    users = [replace(WHO, subject=f"user:iss#{number}") for number in range(5)]
    assert account_of(users[0]) == "t/user:iss#0"
    assert sum(is_answered(monitor, biased(number), users[number % 5]) for number in range(30)) == 6


def test_shadow_mode_says_what_would_have_been_and_refuses_nothing() -> None:
    monitor = TheftMonitor(replace(SETTINGS, mode=Mode.SHADOW), SECRET)
    assert all(is_answered(monitor, biased(number)) for number in range(100))
    (flag,) = monitor.flags()
    assert flag.is_shadow


def test_verdicts_tell_no_threshold() -> None:
    verdicts = set()
    for limit in (4, 5):
        monitor = TheftMonitor(replace(SETTINGS, prompt_bias_vectors=limit), SECRET)
        for number in range(8):
            verdicts |= set(monitor.judge(WHO, steering_of(biased(number), SECRET), NOON).verdicts)
    assert len(verdicts) == 1
    (verdict,) = verdicts
    assert (verdict.version, verdict.score) == ("theft-1.1", 1.0)


def test_what_is_one_input_to_a_model_counts_as_one_and_digests_are_keyed() -> None:
    one = steering_of(biased(1, "The answer is"), SECRET)
    assert one == steering_of(biased(1, " The answer is\n"), SECRET)
    assert one.prompt != steering_of(biased(1, "The answer was"), SECRET).prompt
    assert one.prompt != steering_of(biased(1, "The answer is"), b"another").prompt
    form = ResponseFormat(kind=Kind.CHOICE, choices=("a",))
    plain = Request(id="r", model="m", prompt="x")
    assert steering_of(plain, SECRET) is UNSTEERED
    assert steering_of(replace(plain, response_format=form), SECRET) is UNSTEERED
    assert steering_of(replace(plain, response_format=form, logprobs=0), SECRET).bias is not None
    zero = replace(plain, sampling=Sampling(logit_bias=((5, 0.0),)))
    assert (
        steering_of(zero, SECRET).bias
        == steering_of(replace(zero, sampling=Sampling(logit_bias=((6, 0.0),))), SECRET).bias
    )


def test_fields_as_they_came_steer_as_well() -> None:
    steering = steering_of_fields({"prompt": b'"x"', "allowed_token_ids": b"[5]", "min_p": b"0.1"}, SECRET)
    assert steering.bias is not None and steering.cuts is not None and steering.prompt
    assert steering_of_fields({"prompt": b'"x"', "temperature": b"0"}, SECRET) is UNSTEERED


@pytest.mark.parametrize("damage", ["counts", "ages", "flags", "version"])
def test_half_a_snapshot_changes_nothing(damage: str) -> None:
    monitor = TheftMonitor(SETTINGS, SECRET)
    for number in range(100):
        is_answered(monitor, biased(number))
    snapshot = json.loads(monitor.snapshot())
    snapshot[damage] = [{"nobody": 1}]
    other = TheftMonitor(SETTINGS, SECRET)
    before = other.snapshot()
    with pytest.raises(ValueError, match=r"snapshot|version"):
        other.restore(json.dumps(snapshot).encode())
    assert other.snapshot() == before
    other.restore(monitor.snapshot())
    assert other.flags() == monitor.flags()
    assert not is_answered(other, biased(500))
