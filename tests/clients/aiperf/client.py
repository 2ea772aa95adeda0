"""aiperf's load profile on chat, responses and messages: 60 streamed requests each, 8 at a time, without an error.

Its prompts are made with a tokenizer of its own, which knows single bytes: no network is needed for it.
"""

import json
import os
import pathlib
import subprocess

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

URL = os.environ["HEADRACE_URL"]
NUM_REQUESTS = 60


def make_tokenizer(folder: pathlib.Path) -> None:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={char: index for index, char in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "!"}')


def profile(kind: str) -> None:
    done = subprocess.run(
        [
            *("aiperf", "profile", "--url", URL, "--endpoint-type", kind, "--streaming", "--model", "scripted"),
            *(
                "--tokenizer",
                str(pathlib.Path("tokenizer").resolve()),
                "--use-server-token-count",
                "--concurrency",
                "8",
                "--ui",
                "none",
            ),
            *("--request-count", str(NUM_REQUESTS), "--isl", "200", "--osl", "10", "--random-seed", "1"),
            *("--artifact-dir", kind),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    told = json.loads((pathlib.Path(kind) / "profile_export_aiperf.json").read_text())
    errors = told.get("error_request_count") or {"avg": 0}
    assert errors["avg"] == 0 and not told.get("error_summary"), told.get("error_summary")
    assert told["request_count"]["avg"] == NUM_REQUESTS, told["request_count"]
    print(f"did {NUM_REQUESTS} streams of {kind}, 8 at a time, without an error", flush=True)


make_tokenizer(pathlib.Path("tokenizer"))
for name in ("chat", "responses", "messages"):
    profile(name)
