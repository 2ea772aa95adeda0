"""What a run may be asked for, and how mistakes are told."""

import pytest

from headrace.core.errors import InvalidRequest
from headrace.loadtest.plan import MAX_REQUESTS, Bounds, Goals, Plan, Prices, Stage, read_goals, read_stages


def test_rates_and_concurrency_become_stages() -> None:
    assert read_stages("1,2.5", None) == (Stage(rate=1.0), Stage(rate=2.5))
    assert read_stages(None, "1, 32") == (Stage(concurrency=1), Stage(concurrency=32))
    assert [stage.name for stage in read_stages("0.5", None)] == ["rate 0.5"]


@pytest.mark.parametrize(
    ("rates", "concurrency", "said"),
    [
        (None, None, "--rate"),
        ("1", "1", "either"),
        ("1,x", None, "'x' is no number"),
        ("0", None, "above 0"),
        ("nan", None, "above 0"),
        (None, "1.5", "whole number"),
        ("", None, "'' is no number"),
        ("1e99", None, "at most"),
    ],
)
def test_stages_that_cannot_be_are_refused_by_name(rates: str | None, concurrency: str | None, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        read_stages(rates, concurrency)


def test_goals_are_read_by_name() -> None:
    assert read_goals("ttft=0.5, itl=0.05") == Goals(ttft_s=0.5, itl_s=0.05)
    assert not read_goals(None).are_set
    for wrong in ("ttfs=1", "ttft", "ttft=x", "ttft=-1"):
        with pytest.raises(InvalidRequest, match="slo"):
            read_goals(wrong)


def test_everything_is_bounded() -> None:
    assert Bounds(duration_s=None, max_requests=10, num_warm=2).most == 12
    assert Bounds().most == MAX_REQUESTS
    for name, value in (
        ("duration_s", float("inf")),
        ("max_requests", 0),
        ("drain_s", -1),
        ("request_s", float("nan")),
    ):
        with pytest.raises(InvalidRequest, match="correct --"):
            Bounds(**{name: value})
    with pytest.raises(InvalidRequest, match="price-input"):
        Prices(input=-1)
    with pytest.raises(InvalidRequest, match="stages"):
        Plan(stages=())
    with pytest.raises(InvalidRequest, match="endpoint"):
        Plan(stages=(Stage(rate=1),), protocol="messages")  # type: ignore[arg-type]
