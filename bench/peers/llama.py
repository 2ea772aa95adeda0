"""llama.cpp at several settings, each a process of its own, with the same methods as our side. Knows no benchmark.

Settings: the model's file as it is, and as Q4_0 and Q8_0 where `make bench-peers` has made them, each with flash
attention off and on, keys and values in fp16; and Q4_0 (else the file as it is) with keys and values in its q8_0.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.peers.process import PeerProcess
from bench.peers.requantize import requantized

CONTEXT = 8192
SERVER_BATCH = 2048  # its server's default; computed in pieces of 512


@dataclass(frozen=True, slots=True)
class Setting:
    """One way to run it."""

    label: str
    path: Path
    flash: bool
    kv: str = "f16"

    @property
    def name(self) -> str:
        """How rows call it."""
        return f"{self.label}, flash {'on' if self.flash else 'off'}, KV {self.kv}"


def settings(model: Path) -> list[Setting]:
    """All settings that can run; the first is the file as shipped with flash attention."""
    files = {"the file as shipped": model} | {
        f"{kind} repacked": path for kind, path in requantized(model).items() if path.exists()
    }
    found = [Setting(label, path, flash) for label, path in files.items() for flash in (True, False)]
    fastest = "Q4_0 repacked" if "Q4_0 repacked" in files else "the file as shipped"
    return [*found, Setting(fastest, files[fastest], flash=True, kv="q8_0")]


@dataclass(slots=True)
class LlamaCpp:
    """One running setting. Rates are tokens per second."""

    process: PeerProcess
    name: str

    def prefill(self, tokens: list[int]) -> float:
        """A fresh prompt."""
        return len(tokens) / float(self.process("prefill", tokens=tokens)["seconds"])

    def prepare(self, prompts: list[list[int]]) -> None:
        """Compute what `decode` goes on from: all but the last token, so that both sides begin at the same one."""
        self.process("prompt", prompts=[prompt[:-1] for prompt in prompts])

    def decode(self, new: int) -> float:
        """New tokens of all prepared prompts together."""
        answer = self.process("decode", new=new)
        return float(answer["tokens"]) / float(answer["seconds"])

    def shared(self, prefix: list[int], tails: list[list[int]], new: int) -> float:
        """New tokens of streams that share a prefix, from an empty cache."""
        answer = self.process("shared", prefix=prefix, tails=tails, new=new)
        return float(answer["tokens"]) / float(answer["seconds"])

    def serve(self, prompts: list[list[int]], new: int) -> float:
        """New tokens of prompts that arrive at once, each in a slot of its own, as llama.cpp's server runs them."""
        answer = self.process("serve", prompts=prompts, new=new)
        return float(answer["tokens"]) / float(answer["seconds"])

    def nll(self, tokens: list[int]) -> list[float]:
        """Negative log-likelihood of tokens[1:]."""
        return list(self.process("nll", tokens=tokens)["nll"])


@contextmanager
def running(model: Path, threads: int, sequences: int) -> Iterator[tuple[list[LlamaCpp], dict[str, str]]]:
    """All settings, started, with what to say of the build."""
    with ExitStack() as stack:
        peers, facts = [], {}
        for setting in settings(model):
            process = stack.enter_context(PeerProcess("llama.cpp", "llama_cpp_worker.py"))
            opened = process(
                "open", model=str(setting.path), threads=threads, flash=setting.flash, kv=setting.kv,
                context=CONTEXT, sequences=sequences,
            )  # fmt: skip
            facts = {"peer": opened["version"], "peer build": opened["build"]}
            peers.append(LlamaCpp(process, f"llama.cpp, {setting.name}"))
        facts["peer settings"] = "; ".join(peer.name for peer in peers)
        yield peers, facts


@dataclass(frozen=True, slots=True)
class ServerSetting:
    """One way to run its server: a setting, and one cache for all slots or a part of it for each."""

    setting: Setting
    unified: bool

    @property
    def name(self) -> str:
        """How rows call it."""
        return f"llama.cpp, {self.setting.name}, {'one cache' if self.unified else 'a cache for each slot'}"


def server_settings(model: Path) -> list[ServerSetting]:
    """All ways to run its server."""
    return [ServerSetting(setting, unified) for setting in settings(model) for unified in (False, True)]


@contextmanager
def serving_slots(
    setting: ServerSetting, threads: int, slots: int, slot_tokens: int
) -> Iterator[tuple[LlamaCpp, dict[str, str]]]:
    """One setting with as many slots, started, with what to say of the build. Batches are as large as the server's."""
    one = setting.setting
    with PeerProcess("llama.cpp", "llama_cpp_worker.py") as process:
        opened = process(
            "open", model=str(one.path), threads=threads, flash=one.flash, kv=one.kv, context=slots * slot_tokens,
            sequences=slots, unified=setting.unified, batch=SERVER_BATCH,
        )  # fmt: skip
        yield LlamaCpp(process, setting.name), {"peer": opened["version"], "peer build": opened["build"]}
