"""Constrained answers through the whole engine on the toy model, whose every token is one character."""

import asyncio
import json
import random
import threading
from typing import Any

import jsonschema
import numpy as np
import pytest
from tests.doubles import TOY_CACHE, TOY_VOCAB, ToyProgram, ToyTokenizer
from tests.unit.engine.test_text import BOUND_S, IDS, ask, collect, make, run, text_of

from headrace.core.errors import EngineFault, InvalidRequest, UnsupportedField
from headrace.core.events import ChoiceFinished, Event, Finished, FinishReason, PromptLogprobs, TextDelta
from headrace.core.request import FormatKind, ResponseFormat, Sampling
from headrace.engine.config import EngineConfig
from headrace.engine.draft.speculator import Tally
from headrace.engine.grammar.compiler import GrammarCompiler
from headrace.engine.kv.pool import PagePool
from headrace.engine.runner import Runner
from headrace.engine.scheduler import Scheduler
from headrace.engine.sequence import Sequence, Work

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "identifier": {"type": "integer", "minimum": 0, "maximum": 999},
        "a rather long name": {"enum": ["one and only", "one and other", None]},
        "marks": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3},
    },
    "required": ["identifier", "a rather long name", "marks"],
    "additionalProperties": False,
}
JSON = ResponseFormat(kind=FormatKind.JSON_SCHEMA, schema=SCHEMA)
COMPACT = ResponseFormat(kind=FormatKind.JSON_SCHEMA, schema={**SCHEMA, "x-guidance": {"whitespace_flexible": False}})


def lark(source: str) -> ResponseFormat:
    return ResponseFormat(kind=FormatKind.LARK, source=source)


def reason_of(events: list[Event], choice: int = 0) -> FinishReason:
    (found,) = [event for event in events if isinstance(event, ChoiceFinished) and event.choice == choice]
    return found.reason


def num_completion_tokens(events: list[Event]) -> int:
    assert isinstance(events[-1], Finished)
    return events[-1].usage.completion_tokens


def test_every_answer_is_valid_and_every_token_is_counted_and_told_once() -> None:
    engine = make()

    async def main() -> None:
        seen = set()
        for seed in range(20):
            options = {"max_tokens": 200, "response_format": JSON, "ignore_eos": seed % 2 == 1}
            events = await collect(engine.run(ask(temperature=1.5, seed=seed, **options)))
            text = text_of(events)
            jsonschema.validate(json.loads(text), SCHEMA)
            assert reason_of(events) is FinishReason.STOP
            # One token a character, and the one that ends it.
            assert num_completion_tokens(events) == len(text) + 1
            assert sum(event.num_tokens for event in events if isinstance(event, TextDelta)) == len(text) + 1
            seen.add(text)
        assert len(seen) == 20

    run(engine, main)


def test_forced_tokens_skip_steps_and_change_no_character() -> None:
    program = ToyProgram()
    engine = make(program)

    async def main() -> None:
        for seed in range(8):
            options: dict[str, Any] = {"temperature": 1.0, "seed": seed, "max_tokens": 150, "response_format": COMPACT}
            before = len(program.steps)
            skipping = await collect(engine.run(ask(**options)))
            num_skipping = len(program.steps) - before
            # Whoever asks for log-probabilities has every token drawn.
            drawing = await collect(engine.run(ask(**options, logprobs=0)))
            num_drawing = len(program.steps) - before - num_skipping
            assert text_of(skipping) == text_of(drawing)
            assert num_completion_tokens(skipping) == num_completion_tokens(drawing)
            assert num_skipping < num_drawing * 0.6
            told = [one for event in drawing if isinstance(event, TextDelta) for one in event.logprobs]
            assert "".join(one.token for one in told) == text_of(drawing)

    run(engine, main)


def test_every_choice_keeps_to_the_form_by_itself() -> None:
    engine = make()

    async def main() -> None:
        events = await collect(
            engine.run(ask(temperature=1.0, num_choices=4, max_tokens=150, response_format=JSON, prompt_logprobs=0))
        )
        texts = [text_of(events, choice) for choice in range(4)]
        for choice, text in enumerate(texts):
            jsonschema.validate(json.loads(text), SCHEMA)
            assert reason_of(events, choice) is FinishReason.STOP
        assert len(set(texts)) == 4
        assert num_completion_tokens(events) == sum(map(len, texts)) + 4
        assert sum(isinstance(event, PromptLogprobs) for event in events) == 1

    run(engine, main)


def test_best_of_constrained_choices_is_constrained() -> None:
    engine = make()

    async def main() -> None:
        request = ask(temperature=1.0, num_choices=1, best_of=3, max_tokens=150, response_format=JSON)
        jsonschema.validate(json.loads(text_of(await collect(engine.run(request)))), SCHEMA)

    run(engine, main)


def test_an_answer_that_is_cut_off_ends_with_length_even_inside_forced_tokens() -> None:
    engine = make()

    async def main() -> None:
        for max_tokens in range(1, 18):
            events = await collect(engine.run(ask(max_tokens=max_tokens, response_format=COMPACT)))
            assert num_completion_tokens(events) == max_tokens
            assert reason_of(events) is FinishReason.LENGTH
            assert text_of(events) == '{"identifier":'[:max_tokens] + text_of(events)[14:]

    run(engine, main)


def test_a_stop_string_ends_a_constrained_answer() -> None:
    engine = make()

    async def main() -> None:
        events = await collect(engine.run(ask(max_tokens=150, response_format=JSON, stop=("long n",))))
        assert text_of(events).endswith('"a rather ')
        assert any(isinstance(event, ChoiceFinished) and event.stop_match == "long n" for event in events)

    run(engine, main)


def test_reasoning_is_free_until_the_marker_and_the_answer_is_held_behind_it() -> None:
    engine = make()
    form = ResponseFormat(kind=FormatKind.CHOICE, choices=("yes", "no"), after="=")

    async def main() -> None:
        lengths = set()
        for seed in range(6):
            events = await collect(engine.run(ask(temperature=1.0, seed=seed, max_tokens=400, response_format=form)))
            reasoning, marker, answer = text_of(events).partition("=")
            assert marker == "=" and answer in {"yes", "no"}
            lengths.add(len(reasoning))
        assert len(lengths) > 3

    run(engine, main)


def test_constrained_and_free_streams_that_preempt_each_other_answer_as_they_would_alone() -> None:
    formats = [JSON, ResponseFormat(), lark('start: "abc"* "d"'), COMPACT]
    requests = [
        ask(prompt=f"Say {index} things.", temperature=1.0, seed=index, max_tokens=120, response_format=form)
        for index, form in enumerate(formats)
    ]
    program, gate = ToyProgram(), threading.Event()
    engine = make(program, pages=5)

    async def main() -> None:
        # One after the other first, which also compiles the grammars: then all four come at once.
        alone = [text_of(await collect(engine.run(request))) for request in requests]
        assert num_preemptions(engine) == 0
        program.before_step = lambda: gate.wait(BOUND_S)
        tasks = [asyncio.ensure_future(collect(engine.run(request))) for request in requests]
        while engine._engine._arrivals < 2 * len(requests):  # noqa: ASYNC110 - nobody is told of arrivals
            await asyncio.sleep(0)
        gate.set()
        assert [text_of(await task) for task in tasks] == alone
        assert num_preemptions(engine) > 0

    run(engine, main)


def num_preemptions(engine: Any) -> float:
    """How often somebody was preempted."""
    return float(engine.metrics.for_model("toy").preemptions._value.get())


def test_a_form_that_cannot_be_had_is_refused_and_nothing_is_queued() -> None:
    engine = make()

    async def main() -> None:
        form = ResponseFormat(kind=FormatKind.JSON_SCHEMA, schema={"contains": {}})
        with pytest.raises(UnsupportedField, match="'contains' at #"):
            await collect(engine.run(ask(response_format=form)))
        with pytest.raises(InvalidRequest, match="response_format: lark"):
            await collect(engine.run(ask(response_format=lark("start: x"))))

    run(engine, main)


def test_a_grammar_that_gives_up_on_the_way_fails_its_request_and_no_other() -> None:
    engine = make()
    # What follows the three letters is too much for llguidance's own limits, found out only when it is reached.
    hopeless = lark('start: "xyz" C\nC: A & ~B\nA: /((a|b)*a(a|b){300})/\nB: /((a|b)*b(a|b){300})/')

    async def main() -> None:
        good = asyncio.ensure_future(collect(engine.run(ask(max_tokens=150, response_format=JSON))))
        with pytest.raises(EngineFault, match="grammar cannot be followed"):
            await collect(engine.run(ask(response_format=hopeless)))
        jsonschema.validate(json.loads(text_of(await good)), SCHEMA)

    run(engine, main)


def test_closing_a_constrained_stream_halfway_frees_everything() -> None:
    engine = make()

    async def main() -> None:
        events = engine.run(ask(max_tokens=200, response_format=JSON, num_choices=2))
        async for event in events:
            if isinstance(event, TextDelta):
                break
        await events.aclose()

    run(engine, main)


class Guesser:
    """Guesses that are sometimes what will come, and sometimes what the grammar would never take."""

    def __init__(self, answers: dict[int, list[int]], rng: random.Random) -> None:
        self._answers, self._rng = answers, rng
        self.num_accepted = 0

    def limit(self, num_decoding: int) -> int:
        return 5

    def propose(self, sequence: Sequence, limit: int) -> list[int]:
        known = self._answers[sequence.order[1]]
        done = sequence.num_tokens - sequence.num_prompt
        guess = known[done : done + self._rng.randint(0, limit)]
        if self._rng.random() < 0.5:
            guess = [*guess, self._rng.randrange(TOY_VOCAB), self._rng.randrange(TOY_VOCAB)][:limit]
        return guess

    def observe(self, sequence: Sequence, num_drafted: int, num_accepted: int) -> None:
        self.num_accepted += num_accepted

    def observe_step(self, num_decoding: int, num_more: int, seconds: float) -> None:
        pass

    def end(self, sequence: Sequence) -> None:
        pass

    def tally(self) -> Tally:
        return Tally(0, 0, 0)

    def check(self) -> None:
        pass


@pytest.mark.parametrize("form", [JSON, COMPACT, lark('start: ("ab" | "ac" | /[0-9]{2}/)* "."')])
def test_drafts_change_no_token_of_a_constrained_answer(form: ResponseFormat) -> None:
    compiler = GrammarCompiler(ToyTokenizer(), TOY_VOCAB + 2)
    grammar = compiler.compile(form)

    def answer(guesser: Guesser | None) -> dict[int, list[int]]:
        config = EngineConfig(max_batch_tokens=64, max_sequences=4, prefill_chunk=32)
        pool = PagePool.allocate(TOY_CACHE, 64)
        scheduler = Scheduler(config, pool, speculator=guesser)
        runner = Runner(config, ToyProgram(), object(), pool)
        works = [
            Work(
                model="toy",
                tokens=np.array(IDS[: 20 + seed], np.int32),
                sampling=Sampling(temperature=1.0),
                seed=seed,
                max_tokens=120,
                stop_ids=frozenset({94}),
                grammar=grammar,
            )
            for seed in range(4)
        ]
        sequences = [Sequence(work, arrival, 0) for arrival, work in enumerate(works)]
        for sequence in sequences:
            scheduler.add(sequence)
        while scheduler.running or scheduler.waiting:
            batch = scheduler.schedule()
            scheduler.complete(batch, runner.run(batch))
        scheduler.check()
        return {s.order[1]: s.tokens[s.num_prompt :].tolist() for s in sequences}

    plain = answer(None)
    guesser = Guesser(plain, random.Random(3))
    assert answer(guesser) == plain
    assert guesser.num_accepted > 10
    compiler.close()
