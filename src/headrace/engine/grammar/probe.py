"""Compiles a stranger's grammar in a process of its own first, where it may take too long, too much, or crash.

llguidance bounds most of its work by counters, and not all: the intersection of a dozen patterns or multiples takes
minutes, and a chain of some thousand references overflows the stack and ends the process that compiles it. So whatever
has not been compiled before is compiled here first, with less stack and memory than the server has, and under a limit
of time; what passes does the same work again in the server. This file is also the program of that process (`python
probe.py`): it imports nothing of ours, answers each line of its input with one line, and ends with its input.
"""

import json
import subprocess
import sys
import threading
from collections.abc import Mapping
from typing import Any

TIMEOUT_S = 3.0
_STACK_BYTES = 1 << 20  # a thread of the server has eight times as much
_MEMORY_BYTES = 2 << 30
MAX_LEXER_STATES = 50_000  # of llguidance's 250,000, which could take half a gigabyte


class Probe:
    """The other process, started when it is first needed; safe to use from several threads, one at a time.

    It knows a vocabulary of `num_tokens` tokens by its control tokens, which a grammar may name, and its end.
    """

    def __init__(
        self, num_tokens: int, control_tokens: Mapping[str, int], eos_id: int, timeout_s: float = TIMEOUT_S
    ) -> None:
        self._vocabulary = num_tokens, control_tokens, eos_id
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._is_closed = False

    def _greeting(self) -> bytes:
        # Written when it is needed: thousands of control tokens take milliseconds, for which every stream would wait.
        num_tokens, control_tokens, eos_id = self._vocabulary
        return json.dumps([num_tokens, dict(control_tokens), eos_id]).encode() + b"\n"

    def try_out(self, grammar: str) -> str | None:
        """Why `grammar` cannot be compiled, in llguidance's words or ours; None if it can."""
        with self._lock:
            if self._is_closed:
                return "the server is stopping"
            is_new = self._process is None
            try:
                process = self._process = self._process or self._start()
            except OSError as error:
                return f"the process that tries grammars out cannot be started ({error})"
            assert process.stdin is not None and process.stdout is not None
            is_late = threading.Event()
            timer = threading.Timer(self._timeout_s, _end, (process, is_late))
            timer.start()
            try:
                process.stdin.write((self._greeting() if is_new else b"") + json.dumps(grammar).encode() + b"\n")
                process.stdin.flush()
                answer = process.stdout.readline()
            except BrokenPipeError:
                answer = b""
            finally:
                timer.cancel()
            if is_late.is_set() or not answer:
                self._stop()
            if is_late.is_set():
                return f"it takes longer than {self._timeout_s:g} s to compile"
            return json.loads(answer) if answer else "it refers too deeply or takes too much memory to compile"

    def close(self) -> None:
        """End the process; closing twice is no error."""
        with self._lock:
            self._is_closed = True
            self._stop()

    def _start(self) -> "subprocess.Popen[bytes]":
        # -P: this folder's files must not stand in front of the standard library's.
        return subprocess.Popen(  # noqa: S603 - our own file
            [sys.executable, "-P", __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def _end(process: "subprocess.Popen[bytes]", is_late: threading.Event) -> None:
    is_late.set()
    process.kill()


class _Bytes:
    """A vocabulary of single bytes and control tokens: what is expensive does not depend on the rest."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, num_tokens: int, control_tokens: dict[str, int], eos_id: int) -> None:
        self.eos_token_id = eos_id
        self.tokens = [b""] * num_tokens + [bytes([byte]) for byte in range(256)]
        for text, token in control_tokens.items():
            self.tokens[token] = text.encode()
        self.special_token_ids = sorted(control_tokens.values())
        self._first_byte = num_tokens

    def __call__(self, text: str | bytes) -> list[int]:
        data = text if isinstance(text, bytes) else text.encode("utf-8", "replace")
        return [self._first_byte + byte for byte in data]


def _answer_lines() -> None:
    import llguidance  # noqa: PLC0415 - the server imports this file too, and need not wait for it

    limits = llguidance.LLParserLimits(max_lexer_states=MAX_LEXER_STATES, verbose_errors=False)
    vocabulary: Any = _Bytes(*json.loads(sys.stdin.buffer.readline()))
    tokenizer = llguidance.LLTokenizer(vocabulary)
    for line in sys.stdin.buffer:
        matcher = llguidance.LLMatcher(tokenizer, json.loads(line), log_level=0, limits=limits)
        if not matcher.is_error():
            matcher.compute_bitmask()
        sys.stdout.write(json.dumps(matcher.get_error() or None) + "\n")
        sys.stdout.flush()


def _main() -> None:
    try:
        import resource  # noqa: PLC0415 - not on every system
    except ImportError:
        pass
    else:
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    threading.stack_size(_STACK_BYTES)
    thread = threading.Thread(target=_answer_lines)
    thread.start()
    thread.join()


if __name__ == "__main__":
    _main()
