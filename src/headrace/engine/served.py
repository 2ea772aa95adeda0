"""A loaded model with what is made of it once for serving: its card, its digests, its tables for text.

Turns a request's input into token ids. Knows no engine, no schedule and no protocol.
"""

import copy
import hashlib
from bisect import bisect_right
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from headrace.core.backend import ModelCard
from headrace.core.errors import InvalidRequest, UnsupportedField
from headrace.core.events import TokenLogprob
from headrace.core.request import Input, Message, Request, Role, Task, TextPart, Tool
from headrace.engine.batch import Detail
from headrace.engine.detokenizer import Detokenizer
from headrace.engine.folding import fold_instructions, has_later_instructions
from headrace.engine.grammar.compiler import GrammarCompiler
from headrace.engine.idiom import Idiom, has_tools
from headrace.engine.kv.salt import Salt
from headrace.engine.provision import Footing
from headrace.engine.runner import StepProgram
from headrace.engine.sequence import Keep
from headrace.kernels.plan import Plan
from headrace.models.pooling import PoolingKind
from headrace.models.tokenizer import check_text
from headrace.observe.metrics import Metrics

if TYPE_CHECKING:
    from headrace.adapters.load import LoadedAdapter
    from headrace.models.load import LoadedModel
    from headrace.models.template import ChatTemplate


_MARK_TOKENS = 16  # of an input's end, among which the mark of a thought must be


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """How a model is served: further names, and the system turn for conversations that bring none."""

    aliases: tuple[str, ...] = ()
    system: str | None = None


@dataclass(frozen=True, slots=True)
class Encoded:
    """An input in token ids [n]; `segments` [n] tell two texts apart; tokens from `score_from` on are scored."""

    tokens: NDArray[np.int32]
    segments: NDArray[np.int32] | None = None
    score_from: int = 1


def _num_shared(left: NDArray[np.int32], right: NDArray[np.int32]) -> int:
    """With how many equal tokens two inputs begin."""
    count = min(len(left), len(right))
    differing = np.flatnonzero(left[:count] != right[:count])
    return int(differing[0]) if differing.size else count


def card_of(model: "LoadedModel", setup: Setup) -> ModelCard:
    """What is told of a model while it is not in memory."""
    return ModelCard(
        id=model.name,
        created=model.created,
        owned_by="headrace",
        context_length=model.context_length,
        digest=model.digest,
        aliases=setup.aliases,
        tasks=model.tasks,
        is_loaded=False,
    )


class Served:
    """A loaded model with what is made of it once; `name` is what it is called in answers."""

    def __init__(self, model: "LoadedModel", metrics: Metrics, setup: Setup) -> None:
        self.model = model
        self.name = model.name
        self.adapter: LoadedAdapter | None = None
        self._opening = (Message(Role.SYSTEM, (TextPart(setup.system),)),) if setup.system else ()
        self.metrics = metrics.for_model(model.name)
        # A model may have more rows than its tokenizer has tokens; such rows add nothing to a text.
        byte_table = model.tokenizer.byte_table
        self.byte_table = [*byte_table, *[b""] * (model.plan.vocab_size - len(byte_table))]
        self.idiom = Idiom.of("" if model.template is None else model.template.tool_source, self._is_token)
        self._tables: dict[frozenset[int], list[bytes]] = {}
        self.generates = Task.GENERATE in model.tasks
        self._grammars = GrammarCompiler(model.tokenizer, model.plan.vocab_size) if self.generates else None
        self.pooled_plan: Plan | None = None
        self.pooled_program: StepProgram | None = None
        self.pooled_metrics = self.metrics
        if Task.EMBED in model.tasks or self.judges:
            self.pooled_plan, self.pooled_program = model.pooled()
        self._prefix = "" if model.pooling is None else model.pooling.prefix
        if self.generates:
            self.pooled_metrics = metrics.for_model(f"{model.name}/pooled")
        self.lanes: tuple[str, ...] = ()  # in the engine, by name; and what the sizes of their pools follow from
        self.footings: tuple[Footing, ...] = ()
        self.digests = {"model": model.digest, **model.facts}
        if model.template is not None:
            self.digests["template"] = model.template.digest
        if setup.system:
            self.digests["system"] = "sha256:" + hashlib.sha256(setup.system.encode()).hexdigest()
        self.card = replace(card_of(model, setup), is_loaded=True)

    @property
    def grammars(self) -> GrammarCompiler:
        """Of a model that generates."""
        assert self._grammars is not None
        return self._grammars

    def close(self) -> None:
        """Stop what runs on its behalf."""
        if self._grammars is not None:
            self._grammars.close()

    def adapted(self, adapter: "LoadedAdapter") -> "Served":
        """The same model with an adapter over it."""
        twin = copy.copy(self)
        twin.adapter = adapter
        twin.name = f"{self.name}:{adapter.name}"
        twin.digests = self.digests | {"adapter": adapter.digest}
        return twin

    def salt(self, request: Request) -> Salt:
        """What bounds sharing: tenant, model, adapter, template and the caller's own salt."""
        adapter, template = (self.digests.get(name, "") for name in ("adapter", "template"))
        return Salt(request.principal.tenant, self.model.digest, adapter, template, request.cache.salt)

    def detokenizer(self, request: Request) -> Detokenizer:
        """For one choice. An answer in a chat begins a text of its own; after a raw prompt, or a start that was given,
        it continues that one."""
        begins = request.messages is not None and not request.answer_start
        strips = self.model.tokenizer.strips_leading_space and begins
        return Detokenizer(self.marked_table(self.idiom.markers(request)), strips_leading_space=strips)

    def marked_table(self, markers: frozenset[str]) -> list[bytes]:
        """What tokens add to a text in which some control tokens are to be seen."""
        special = self.model.tokenizer.special_tokens
        ids = frozenset(special[text] for text in markers if text in special)
        if not ids:
            return self.byte_table
        table = self._tables.get(ids)
        if table is None:
            table = self._tables[ids] = [*self.byte_table]
            for text in markers & special.keys():
                table[special[text]] = text.encode()
        return table

    def _is_token(self, text: str) -> bool:
        return not any(isinstance(piece, str) for piece in self.model.tokenizer.split(text))

    def encode_text(self, text: str) -> list[int]:
        """Token ids of our own text that goes on after other text, control tokens included."""
        ids: list[int] = []
        for piece in self.model.tokenizer.split(text):
            ids += [piece] if isinstance(piece, int) else self.model.tokenizer.encode_inside(piece)
        return ids

    def has_open_thought(self, tokens: NDArray[np.int32]) -> bool:
        """Whether an input ends in the mark that begins a thought."""
        marks = self.idiom.marks
        return marks is not None and self.text(tokens[-_MARK_TOKENS:].tolist()).rstrip().endswith(marks.open)

    def logprob(self, token: int, detail: Detail) -> TokenLogprob:
        """A token and its alternatives as people read them."""
        alternatives = tuple((*self._shown(other), value) for other, value in detail.top)
        ids = tuple(other for other, _ in detail.top)
        return TokenLogprob(*self._shown(token), detail.logprob, alternatives, token, ids)

    def text(self, tokens: list[int]) -> str:
        """What tokens read as, control tokens by their names."""
        return b"".join(self._shown(token)[1] for token in tokens).decode("utf-8", "replace")

    def piece(self, token: int) -> bytes:
        """What a token adds to a text, or a control token's name."""
        return self._shown(token)[1]

    def _shown(self, token: int) -> tuple[str, bytes]:
        data = self.byte_table[token]
        if data or token >= self.model.tokenizer.vocab_size:
            return data.decode("utf-8", "replace"), data
        # A control token adds nothing to a text; its name tells what it is.
        text = self.model.tokenizer.token_text(token)
        return text, text.encode("utf-8", "replace")

    def encode(self, request: Request) -> NDArray[np.int32]:
        """Token ids of a request's input."""
        model = self.model
        if request.tokens is not None:
            return self._given(request.tokens)
        if request.suffix is not None:
            ids = self._encode_filling(request.prompt or "", request.suffix)
        elif request.prompt is not None:
            ids = model.tokenizer.encode(request.prompt, special=True, bos=True)
        else:
            assert request.messages is not None
            if model.template is None:
                raise InvalidRequest(
                    f"Model {model.name} has no chat template: it continues text and does not converse. Send a prompt "
                    "to /v1/completions, or give it to `headrace generate --raw`.",
                    param="messages",
                )
            ids = self._encode_chat(model.template, request, request.messages)
            if request.answer_start:
                self._refuse_thought(model.template, request, request.messages)
        if not ids:
            raise InvalidRequest("The input has no tokens; give at least one character.", param="prompt")
        return np.array(ids, np.int32)

    def _encode_filling(self, prefix: str, suffix: str) -> list[int]:
        """A text with a gap, as models were taught to fill it (Bavarian et al. 2022, arXiv 2207.14255: PSM)."""
        tokenizer = self.model.tokenizer
        if not tokenizer.filling:
            raise UnsupportedField(
                f"suffix: {self.name} has no tokens for filling in the middle; leave the suffix out.", param="suffix"
            )
        for text in (prefix, suffix):
            check_text(text)
        before, behind, middle = tokenizer.filling
        ids = [before, *tokenizer.encode_inside(prefix), behind, *tokenizer.encode_inside(suffix), middle]
        return [*tokenizer.encode("", bos=True), *ids]

    def keeps(self, request: Request, tokens: NDArray[np.int32]) -> tuple[Keep, ...]:
        """Where the request's cache breakpoints lie among its tokens."""
        return tuple(
            Keep(len(tokens) if point.message is None else self.end_of(request, point.message, tokens), point.ttl_s)
            for point in request.cache.breakpoints
        )

    def message_at(self, request: Request, token: int, tokens: NDArray[np.int32]) -> int | None:
        """The message that a token of the input lies in; None for what follows all messages, and without messages."""
        messages = range(len(request.messages or ()))
        index = bisect_right(messages, token, key=lambda message: self.end_of(request, message, tokens))
        return index if index < len(messages) else None

    def end_of(self, request: Request, message: int, tokens: NDArray[np.int32]) -> int:
        """How many of the input's tokens a conversation that ended with a message would begin with, too; for -1, how
        many go before the first message, or to the end of the tools.

        0 if the chat template refuses such a conversation, or if there is none.
        """
        messages, template = request.messages, self.model.template
        if messages is None or template is None:
            return 0
        try:
            if message < 0:
                return self._end_of_tools(template, request, messages, tokens)
            ids = self._encode_chat(template, request, messages[: message + 1], add_generation_prompt=False)
        except InvalidRequest:
            return 0
        return _num_shared(np.array(ids, np.int32), tokens)

    def _end_of_tools(
        self, template: "ChatTemplate", request: Request, messages: tuple[Message, ...], tokens: NDArray[np.int32]
    ) -> int:
        """Found by changing what is asked for: with another tool at the end, what follows the tools stays the same;
        without any, what goes before another first message."""
        if has_tools(request):
            more = replace(request, tools=(*request.tools, Tool("another", "\n")))
            other = np.array(self._encode_chat(template, more, messages), np.int32)
            return len(tokens) - _num_shared(other[::-1], tokens[::-1])
        first = replace(messages[0], parts=(TextPart("~" if not messages[0].text.startswith("~") else "^"),))
        other = np.array(self._encode_chat(template, request, (first, *messages[1:])), np.int32)
        return _num_shared(other, tokens)

    @property
    def input_limit(self) -> int:
        """The most tokens of one input."""
        pooling = self.model.pooling
        most = None if pooling is None else pooling.max_tokens
        return self.model.context_length if most is None else min(most, self.model.context_length)

    @property
    def judges(self) -> bool:
        """Whether it scores pairs by a head of its own, and not by how likely it would write one after the other."""
        return Task.SCORE in self.model.tasks and not self.generates

    @property
    def vector_width(self) -> int:
        """Features of its output where work is pooled."""
        plan = self.pooled_plan
        assert plan is not None
        return plan.buffers[plan.output].width

    def encode_input(self, one: Input, index: int, task: Task, *, truncates: bool) -> Encoded:
        """Token ids of one input; with `truncates` no more than `input_limit`. Raises InvalidRequest."""
        if task is Task.SCORE and not self.judges:
            return self._continuation(one, index, truncates=truncates)
        if task is Task.SCORE and len(self.model.labels) > 1:
            labels = ", ".join(self.model.labels)
            raise InvalidRequest(
                f"model: {self.name} sorts into classes ({labels}); only models with one score can score.",
                param="model",
            )
        most = self.input_limit if truncates else None
        if isinstance(one.text, str) and not isinstance(one.pair, tuple):
            ids, segments = self.model.tokenizer.encode_input(self._prefix + one.text, one.pair, max_tokens=most)
            return Encoded(np.array(ids, np.int32), np.array(segments, np.int32) if any(segments) else None)
        if one.pair is not None:
            raise InvalidRequest(f"inputs[{index}]: {self.name} takes two texts, not token ids.", param="input")
        assert isinstance(one.text, tuple)
        return Encoded(self._given(one.text, f"inputs[{index}]", "input")[:most])

    def _continuation(self, one: Input, index: int, *, truncates: bool) -> Encoded:
        """`pair` behind `text`, cut on the left. What both share with `text` alone is not scored: where a token reaches
        over the seam, it is the pair's."""
        assert one.pair is not None
        if isinstance(one.text, str) and isinstance(one.pair, str):
            tokenizer = self.model.tokenizer
            context = np.array(tokenizer.encode(one.text, special=True, bos=True), np.int32)
            tokens = np.array(tokenizer.encode(one.text + one.pair, special=True, bos=True), np.int32)
            count = min(len(context), len(tokens))
            differing = np.flatnonzero(context[:count] != tokens[:count])
            start = int(differing[0]) if differing.size else count
            if start == 0 and len(context) and one.pair:
                # One token made of both ("a" and "b" in "ab"): nothing would be left to score it after.
                tokens = np.concatenate([context, np.array(tokenizer.encode(one.pair, special=True), np.int32)])
                start = len(context)
        elif isinstance(one.text, tuple) and isinstance(one.pair, tuple):
            tokens = self._given(one.text + one.pair, f"inputs[{index}]", "input")
            start = len(one.text)
        else:
            raise InvalidRequest(f"inputs[{index}]: give both parts as text or both as token ids.", param="input")
        if start == 0 or start == len(tokens):
            what = "text" if start == 0 else "pair"
            raise InvalidRequest(
                f"inputs[{index}]: its {what} has no tokens; give at least one character.", param="input"
            )
        surplus = min(max(0, len(tokens) - (self.input_limit - 1)), start - 1) if truncates else 0
        return Encoded(tokens[surplus:], None, start - surplus)

    def pooling_of(self, task: Task) -> PoolingKind:
        """Whose hidden states count."""
        if task is Task.SCORE:
            return PoolingKind.FIRST
        assert self.model.pooling is not None
        return self.model.pooling.kind

    def vector_bytes(self, vector: NDArray[np.float32], dimensions: int | None) -> bytes:
        """A pooled vector as it is told: cut, and of length one if the model's are."""
        assert self.model.pooling is not None
        return self.model.pooling.finish(vector, dimensions).astype("<f4").tobytes()

    def judgement(self, vector: NDArray[np.float32]) -> float:
        """The score of a pair from the output [1] of the model's head."""
        return self.model.activation.apply(float(vector[0]))

    def _refuse_thought(self, template: "ChatTemplate", request: Request, messages: tuple[Message, ...]) -> None:
        ids = self._encode_chat(template, replace(request, answer_start=""), messages)
        if self.has_open_thought(np.array(ids, np.int32)):
            raise UnsupportedField(
                f"answer_start: {self.name} begins its answers with what it thinks, so that no answer can be begun for "
                "it; leave it out.",
                param="answer_start",
            )

    def _encode_chat(
        self,
        template: "ChatTemplate",
        request: Request,
        messages: tuple[Message, ...],
        *,
        add_generation_prompt: bool = True,
    ) -> list[int]:
        """Token ids of the request's conversation, or of its beginning, behind our own system turn if it has none."""
        has_system = any(message.role in {Role.SYSTEM, Role.DEVELOPER} for message in request.messages or ())
        messages = (*(() if has_system else self._opening), *messages)
        if has_later_instructions(messages) and not template.takes_later_instructions:
            messages = fold_instructions(messages)
        told, tools = self.idiom.conversation(messages, request.tools if has_tools(request) else ())
        return template.encode_chat(
            self.model.tokenizer,
            told,
            tools,
            add_generation_prompt=add_generation_prompt,
            answer_start=request.answer_start if add_generation_prompt else "",
            variables=self.idiom.variables(request.reasoning),
        )

    def _given(self, tokens: tuple[int, ...], path: str = "prompt", param: str = "prompt") -> NDArray[np.int32]:
        size = self.model.plan.vocab_size
        for position, token in enumerate(tokens):
            if not 0 <= token < size:
                raise InvalidRequest(
                    f"{path}[{position}]: {token} is not in [0, {size - 1}], the model's vocabulary.", param=param
                )
        return np.array(tokens, np.int32)
