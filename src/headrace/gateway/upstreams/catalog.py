"""Known providers and servers: where they are, which protocols they speak, and where they depart from them.

A row is what `kind` in a backend's settings names; whatever the settings say themselves goes before it. Prices and
context lengths are not here: they change without notice, and a wrong one would overspend a budget. Sources: each
provider's API reference, read in November 2026; what a row does not say was not sure. Knows no sockets and no secrets.
"""

import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final

from headrace.api.outbound.codec import Quirks
from headrace.api.outbound.registry import CODECS
from headrace.gateway.settings import BackendSettings, Dialect
from headrace.gateway.upstreams.pool import Security
from headrace.gateway.upstreams.remote import Remote


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """One kind of backend. `urls` by dialect, the usual one first; empty where only its operator knows. `key_variable`
    is the environment variable that its own documents name, empty if it asks for no key by itself. `health_path`
    begins at the server's root. `quirks` are those of its Chat Completions."""

    title: str
    urls: Mapping[Dialect, str]
    key_variable: str = ""
    health_path: str | None = None
    quirks: Quirks = field(default_factory=Quirks)

    @property
    def dialect(self) -> Dialect:
        """What it is spoken to in if the settings name no dialect."""
        return next(iter(self.urls))

    @property
    def url(self) -> str:
        """Where it is if the settings do not say."""
        return self.urls[self.dialect]

    @property
    def has_secret(self) -> bool:
        """Whether it answers nobody without a key."""
        return bool(self.key_variable)

    def url_of(self, dialect: Dialect) -> str:
        """Where it speaks a dialect, empty if that is not known."""
        return self.urls.get(dialect, "")


_MAX_TOKENS: Final = Quirks(max_tokens_field="max_tokens")
_IDLE: Final = frozenset({"user", "store", "service_tier", "prompt_cache_key", "safety_identifier"})
_LOGPROBS: Final = frozenset({"logprobs", "top_logprobs", "logit_bias"})
_VLLM: Final = frozenset(
    {
        *("top_k", "min_p", "repetition_penalty", "stop_token_ids", "ignore_eos"),
        *("cache_salt", "structured_outputs", "chat_template_kwargs", "truncate_prompt_tokens"),
        "messages.reasoning_content",
    }
)


def _local(port: int, *, prefix: str = "/v1", has_messages: bool = True) -> Mapping[Dialect, str]:
    root = f"http://127.0.0.1:{port}"
    urls = {Dialect.CHAT: root + prefix, Dialect.RESPONSES: root + prefix}
    return urls | ({Dialect.MESSAGES: root} if has_messages else {})


CATALOG: Final[Mapping[str, Provider]] = MappingProxyType(
    {
        "openai": Provider(
            title="OpenAI",
            urls={Dialect.CHAT: "https://api.openai.com/v1", Dialect.RESPONSES: "https://api.openai.com/v1"},
            key_variable="OPENAI_API_KEY",
        ),
        "anthropic": Provider(
            title="Anthropic",
            urls={Dialect.MESSAGES: "https://api.anthropic.com"},
            key_variable="ANTHROPIC_API_KEY",
        ),
        "gemini": Provider(
            title="Google Gemini",
            urls={
                Dialect.GEMINI: "https://generativelanguage.googleapis.com/v1beta",
                Dialect.CHAT: "https://generativelanguage.googleapis.com/v1beta/openai",
            },
            key_variable="GEMINI_API_KEY",
            quirks=_MAX_TOKENS,
        ),
        "openrouter": Provider(
            title="OpenRouter",
            urls={Dialect.CHAT: "https://openrouter.ai/api/v1", Dialect.MESSAGES: "https://openrouter.ai/api"},
            key_variable="OPENROUTER_API_KEY",
            quirks=replace(
                _MAX_TOKENS,
                knows=frozenset({"top_k", "min_p", "repetition_penalty", "reasoning", "messages.reasoning"}),
            ),
        ),
        "mistral": Provider(
            title="Mistral",
            urls={Dialect.CHAT: "https://api.mistral.ai/v1"},
            key_variable="MISTRAL_API_KEY",
            # It refuses fields that it does not know, and tells usage in every stream without being asked.
            quirks=replace(
                _MAX_TOKENS,
                has_usage_option=False,
                drops=_IDLE | _LOGPROBS | {"seed"},
                knows=frozenset({"prefix", "tool_calls.short_ids"}),
            ),
        ),
        "deepseek": Provider(
            title="DeepSeek",
            urls={Dialect.CHAT: "https://api.deepseek.com/v1", Dialect.MESSAGES: "https://api.deepseek.com/anthropic"},
            key_variable="DEEPSEEK_API_KEY",
            quirks=replace(_MAX_TOKENS, knows=frozenset({"thinking", "messages.reasoning_content"})),
        ),
        "groq": Provider(
            title="Groq",
            urls={
                Dialect.CHAT: "https://api.groq.com/openai/v1",
                Dialect.RESPONSES: "https://api.groq.com/openai/v1",
            },
            key_variable="GROQ_API_KEY",
            quirks=Quirks(drops=_LOGPROBS),
        ),
        "together": Provider(
            title="Together",
            urls={Dialect.CHAT: "https://api.together.xyz/v1"},
            key_variable="TOGETHER_API_KEY",
            quirks=replace(_MAX_TOKENS, knows=frozenset({"top_k", "min_p", "repetition_penalty"})),
        ),
        "fireworks": Provider(
            title="Fireworks",
            urls={Dialect.CHAT: "https://api.fireworks.ai/inference/v1"},
            key_variable="FIREWORKS_API_KEY",
            quirks=replace(_MAX_TOKENS, knows=frozenset({"top_k", "min_p", "typical_p", "repetition_penalty"})),
        ),
        "xai": Provider(
            title="xAI",
            urls={Dialect.CHAT: "https://api.x.ai/v1", Dialect.RESPONSES: "https://api.x.ai/v1"},
            key_variable="XAI_API_KEY",
        ),
        "cerebras": Provider(
            title="Cerebras",
            urls={Dialect.CHAT: "https://api.cerebras.ai/v1"},
            key_variable="CEREBRAS_API_KEY",
        ),
        "cohere": Provider(
            title="Cohere, by its compatible API",
            urls={Dialect.CHAT: "https://api.cohere.ai/compatibility/v1"},
            key_variable="COHERE_API_KEY",
            quirks=_MAX_TOKENS,
        ),
        "vllm": Provider(
            title="vLLM",
            urls=_local(8000),
            health_path="/health",
            quirks=Quirks(knows=_VLLM),
        ),
        "sglang": Provider(
            title="SGLang",
            urls=_local(30000),
            health_path="/health",
            quirks=replace(
                _MAX_TOKENS,
                knows=_VLLM - {"cache_salt", "structured_outputs", "truncate_prompt_tokens"},
            ),
        ),
        "llama.cpp": Provider(
            title="llama.cpp's llama-server",
            urls=_local(8080),
            health_path="/health",
            quirks=replace(
                _MAX_TOKENS,
                knows=frozenset(
                    {"top_k", "min_p", "typical_p", "repeat_penalty", "grammar", "ignore_eos", "chat_template_kwargs"}
                ),
            ),
        ),
        "llama-cpp-python": Provider(
            title="llama-cpp-python's server",
            urls={Dialect.CHAT: "http://127.0.0.1:8000/v1"},
            health_path="/v1/models",
            quirks=replace(_MAX_TOKENS, knows=frozenset({"top_k", "min_p", "repeat_penalty", "grammar"})),
        ),
        "ollama": Provider(
            title="Ollama",
            urls=_local(11434),
            health_path="/api/version",
            quirks=_MAX_TOKENS,
        ),
        "lmstudio": Provider(
            title="LM Studio",
            urls=_local(1234),
            health_path="/v1/models",
            quirks=replace(_MAX_TOKENS, knows=frozenset({"top_k", "repeat_penalty"})),
        ),
        "headrace": Provider(
            title="another Headrace",
            urls=_local(8000),
            health_path="/health",
            quirks=Quirks(knows=_VLLM | {"typical_p"}),
        ),
        "openai-compatible": Provider(
            title="any other server with OpenAI's Chat Completions",
            urls={Dialect.CHAT: ""},
            quirks=_MAX_TOKENS,
        ),
        "anthropic-compatible": Provider(
            title="any other server with Anthropic's Messages",
            urls={Dialect.MESSAGES: ""},
        ),
    }
)


def open_remote(
    settings: BackendSettings,
    *,
    secret: str | None = None,
    tls: ssl.SSLContext | Security | None = None,
    bearer: Callable[[], str] | None = None,
) -> Remote:
    """The backend of an entry, completed by its row; see `Remote`. Connects to nothing yet.

    Raises ValueError, which names the setting and the remedy, for a kind, URL or header that cannot be.
    """
    provider = CATALOG.get(settings.kind)
    if provider is None:
        raise ValueError(f"kind: {settings.kind!r} is not known; known are {', '.join(CATALOG)}")
    dialect = settings.dialect or provider.dialect
    url = settings.url or provider.url_of(dialect)
    if not url:
        raise ValueError(f"url: is missing; a backend of kind {settings.kind} that speaks {dialect} has no usual one")
    quirks = provider.quirks if dialect is Dialect.CHAT else Quirks()
    settings = replace(settings, dialect=dialect, url=url)
    return Remote(settings, CODECS[dialect], quirks=quirks, secret=secret, tls=tls, bearer=bearer)
