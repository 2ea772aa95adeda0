"""One request's way from mailbox items to events, and its accounts. No I/O; knows no engine."""

from headrace.core.clock import Clock
from headrace.core.errors import HeadraceError
from headrace.core.events import (
    CacheMiss,
    ChoiceFinished,
    Event,
    FinishReason,
    MissReason,
    PromptLogprobs,
    Started,
    TextDelta,
    TokenLogprob,
    Usage,
)
from headrace.core.request import Request
from headrace.engine.batch import Detail
from headrace.engine.detokenizer import Detokenizer
from headrace.engine.item import Begun, Course, Dropped, Failed, Item, PromptScored, Token
from headrace.engine.pace import times_of
from headrace.engine.sequence import Work
from headrace.engine.served import Served
from headrace.engine.speech import Speech
from headrace.engine.stop import StopMatcher
from headrace.observe.engine_states import AdapterUse
from headrace.observe.spans import EngineTimes


class Choice:
    """The text side of one choice: bytes to characters, stop strings, and what the next deltas will carry.

    `speech` parts the text, where there is something to part. With `is_silent` nothing is told but the end.
    """

    __slots__ = (
        "_detokenizer",
        "_matcher",
        "index",
        "is_silent",
        "logprobs",
        "num_logprobs",
        "num_tokens",
        "reason",
        "speech",
        "stop_match",
        "sum_logprobs",
        "text",
    )

    def __init__(
        self,
        index: int,
        detokenizer: Detokenizer,
        stops: tuple[str, ...],
        speech: Speech | None = None,
        *,
        is_silent: bool = False,
    ) -> None:
        self.index = index
        self.speech = speech
        self.is_silent = is_silent
        self.text = ""
        self.num_tokens = 0
        self.logprobs: list[TokenLogprob] = []
        self.num_logprobs = 0
        self.sum_logprobs = 0.0
        self.reason: FinishReason | None = None
        self.stop_match: str | None = None
        self._detokenizer = detokenizer
        self._matcher = StopMatcher(stops) if stops else None

    @property
    def mean_logprob(self) -> float:
        """Of its tokens, the one that ended it included: what `best_of` compares."""
        return self.sum_logprobs / max(1, self.num_logprobs)

    @property
    def is_cut(self) -> bool:
        """Whether its text has ended it, and not the engine."""
        return self.stop_match is not None or (self.speech is not None and self.speech.is_over)

    def push(self, token: int, reason: FinishReason | None) -> None:
        """Take a token; afterwards `text` and `num_tokens` are what is new, and `reason` is set if it was the last."""
        self.num_tokens += 1
        # A stop token ends the answer and is not part of it.
        text = "" if reason is FinishReason.STOP else self._detokenizer.push(token)
        if reason is not None:
            if self.is_silent:  # its one token was drawn because that costs nothing
                self.num_tokens, self.reason = 0, FinishReason.LENGTH
                return
            text += self._detokenizer.flush()
            self.reason = reason
        if self.speech is not None:
            self._speak(self.speech, text)
            return
        if self._matcher is None:
            self.text += text
            return
        emitted, self.stop_match = self._matcher.push(text)
        self.text += emitted
        if self.stop_match is not None:
            self.reason = FinishReason.STOP
        elif reason is not None:
            self.text += self._matcher.flush()

    def _speak(self, speech: Speech, text: str) -> None:
        speech.push(text)
        if self.reason is not None:
            speech.flush()
        if (match := speech.stop_match) is not None:
            self.stop_match, self.reason = match, FinishReason.STOP
        elif speech.is_over or (self.reason is FinishReason.STOP and speech.has_called):
            self.reason = FinishReason.TOOL_CALLS

    def count(self, detail: Detail) -> None:
        """Take the details of the token that is pushed next."""
        self.num_logprobs += 1
        self.sum_logprobs += detail.logprob

    def add_logprob(self, logprob: TokenLogprob) -> None:
        """Tell the log-probability of the token that is pushed next."""
        if self.speech is None:
            self.logprobs.append(logprob)
        else:
            self.speech.add_logprob(logprob)

    def take_deltas(self) -> list[Event]:
        """What has gathered since the last call."""
        if self.is_silent:
            return []
        self.num_tokens, num_tokens = 0, self.num_tokens
        if self.speech is not None:
            return [*self.speech.take_deltas(self.index, is_last=self.reason is not None)]
        delta = TextDelta(self.index, self.text, num_tokens, tuple(self.logprobs))
        self.text, self.logprobs = "", []
        return [delta]


class Answer:
    """See the file's head. With `best_of` nothing but the prompt is told before all choices have ended. `use` is told
    when the engine begins."""

    def __init__(
        self, served: Served, request: Request, work: Work, arrived: float, use: AdapterUse | None = None
    ) -> None:
        self._served = served
        self._request = request
        self._arrived = arrived
        self._use = use
        sampling = work.sampling
        is_silent = request.limits.max_tokens == 0
        is_open = served.has_open_thought(work.tokens)
        self._choices = [
            Choice(
                index,
                served.detokenizer(request),
                request.limits.stop,
                served.idiom.speech(request, index, is_open=is_open),
                is_silent=is_silent,
            )
            for index in range(sampling.num_drawn)
        ]
        self._holds_back = sampling.num_drawn > sampling.num_choices
        self._stopped: list[int] = []
        self._first_token: float | None = None
        self._begun = Begun(0)  # before the engine says so
        self._prompt = work.tokens
        self._prompt_logprobs: list[TokenLogprob | None] | None = None
        if request.prompt_logprobs is not None:
            self._prompt_logprobs = [None]
        self._num_generated = 0
        self._courses: list[Course] = []
        self.open_choices = len(self._choices)  # whose sequence the engine may still hold
        self.error: HeadraceError | None = None

    @property
    def usage(self) -> Usage:
        """What was read and generated so far."""
        begun = self._begun
        return Usage(
            len(self._prompt),
            self._num_generated,
            begun.cached_tokens,
            begun.disk_tokens,
            begun.cache_writes,
            sum(choice.speech.num_reasoning for choice in self._choices if choice.speech is not None),
        )

    def accept(self, items: list[Item], clock: Clock) -> list[Event]:
        """Events for what a mailbox brought: one delta per choice, however many steps have gathered.

        If the request failed, `error` is set afterwards.
        """
        events: list[Event] = []
        touched: list[Choice] = []
        for item in items:
            if type(item) is Token:
                self._take(item, touched)
            elif type(item) is Begun:
                self._begin(item, events)
            elif type(item) is PromptScored:
                self._score(item, events)
            elif type(item) is Course:
                self._courses.append(item)
            elif type(item) is Dropped:
                self.open_choices -= item.was_live
            elif type(item) is Failed:
                self._fail(item.error)
        if touched:
            self._tell(touched, events, clock)
        return events

    def take_stopped(self) -> list[int]:
        """Choices that their text has ended since the last call, by a stop string or its last call: the engine must be
        told."""
        stopped, self._stopped = self._stopped, []
        return stopped

    def finish(self, clock: Clock) -> str:
        """Record the times of a complete answer; returns how it ended."""
        now = clock.monotonic_s()
        metrics = self._served.metrics
        metrics.request_latency.observe(now - self._arrived)
        metrics.request_prompt_tokens.observe(len(self._prompt))
        self._observe_times()
        if self._first_token is not None and self._num_generated > len(self._choices):
            gaps = self._num_generated / len(self._choices) - 1
            metrics.time_per_output_token.observe((now - self._first_token) / gaps)
        return str(self._choices[-1].reason)

    @property
    def times(self) -> EngineTimes | None:
        """When the engine came to it, as far as it said; of several choices, that of all of them."""
        begun = self._begun.scheduled_s
        if self._courses or begun is None:
            return times_of(self._courses)
        return EngineTimes(arrived_s=self._arrived, scheduled_s=begun, first_s=self._first_token)

    def _observe_times(self) -> None:
        metrics, times = self._served.metrics, self.times
        for course in self._courses:
            metrics.request_generation_tokens.observe(course.num_drawn)
        if times is None or times.scheduled_s is None or times.first_s is None or times.last_s is None:
            return
        metrics.queue_time.observe(times.scheduled_s - times.arrived_s)
        metrics.inference_time.observe(times.last_s - times.scheduled_s)
        metrics.prefill_time.observe(times.first_s - times.scheduled_s)
        metrics.decode_time.observe(times.last_s - times.first_s)

    def best(self) -> list[Event]:
        """With `best_of`, after the end of all choices: those with the largest mean log-probability."""
        if not self._holds_back:
            return []
        ranked = sorted(self._choices, key=lambda choice: (-choice.mean_logprob, choice.index))
        events: list[Event] = []
        for index, choice in enumerate(ranked[: self._request.sampling.num_choices]):
            assert choice.reason is not None
            choice.index = index
            events += [*choice.take_deltas(), ChoiceFinished(index, choice.reason, choice.stop_match)]
        return events

    def _begin(self, item: Begun, events: list[Event]) -> None:
        self._begun = item
        if self._use is not None:
            self._use.run()
        served, num_prompt = self._served, len(self._prompt)
        miss = None if item.miss is None else self._locate(item.miss, item.cached_tokens)
        cached, writes = item.cached_tokens, item.cache_writes
        events.append(Started(self._request.id, served.name, num_prompt, cached, served.digests, miss, writes))
        if self._prompt_logprobs is not None and len(self._prompt) == 1:
            events.append(PromptLogprobs((None,), served.text(self._prompt.tolist())))

    def _locate(self, reason: MissReason, token: int) -> CacheMiss:
        if reason is MissReason.NONE:
            return CacheMiss(reason, token)
        return CacheMiss(reason, token, self._served.message_at(self._request, token, self._prompt))

    def _score(self, item: PromptScored, events: list[Event]) -> None:
        assert self._prompt_logprobs is not None
        known = self._prompt_logprobs
        following = self._prompt[len(known) : len(known) + len(item.details)].tolist()
        known += [self._served.logprob(token, detail) for token, detail in zip(following, item.details, strict=True)]
        if len(known) == len(self._prompt):
            events.append(PromptLogprobs(tuple(known), self._served.text(self._prompt.tolist())))

    def _take(self, item: Token, touched: list[Choice]) -> None:
        choice = self._choices[item.choice]
        if item.reason is not None:
            self.open_choices -= 1
        # Tokens computed before the engine learnt of a stop string are neither shown nor counted.
        if choice.reason is not None:
            return
        if choice.num_tokens == 0 or self._holds_back:
            touched.append(choice)
        if item.detail is not None:
            choice.count(item.detail)
            if self._request.logprobs is not None and item.reason is not FinishReason.STOP:
                choice.add_logprob(self._served.logprob(item.token, item.detail))
        choice.push(item.token, item.reason)

    def _tell(self, touched: list[Choice], events: list[Event], clock: Clock) -> None:
        if self._first_token is None:
            self._first_token = clock.monotonic_s()
            self._served.metrics.time_to_first_token.observe(self._first_token - self._arrived)
        if self._holds_back:
            self._num_generated += len(touched)
            self._stopped += [choice.index for choice in dict.fromkeys(touched) if choice.is_cut]
            return
        for choice in touched:
            self._num_generated += choice.num_tokens
            events += choice.take_deltas()
            if choice.reason is not None:
                events.append(ChoiceFinished(choice.index, choice.reason, choice.stop_match))
                if choice.is_cut:
                    self._stopped.append(choice.index)

    def _fail(self, error: HeadraceError) -> None:
        self.open_choices = 0
        # Once every choice has told its end, a failure could only concern tokens that nobody will see.
        if any(choice.reason is None for choice in self._choices):
            self.error = error
