"""A request as remote backends are asked it."""

from dataclasses import replace

from headrace.core.request import Effort, Message, Reasoning, Request, Role, Sampling, TextPart


def test_what_a_protocol_means_by_nothing_is_not_asked_of_a_backend_that_may_not_speak_it() -> None:
    words = (Message(Role.USER, (TextPart("Hi"),)),)
    drawn = Sampling(temperature=0.8, top_k=40, min_p=0.1, defaults=frozenset({"temperature", "top_k"}))
    request = Request(
        id="r", model="m", messages=words, sampling=drawn, reasoning=Reasoning(Effort.NONE, is_default=True)
    )
    assert request.asked.sampling == Sampling(min_p=0.1)
    assert request.asked.reasoning == Reasoning()
    said = replace(request, sampling=Sampling(top_k=40), reasoning=Reasoning(Effort.NONE))
    assert said.asked is said
