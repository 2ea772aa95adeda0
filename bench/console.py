"""What does it cost to watch a server: the process's CPU for each viewer of the live feed, and a page that shows it?

    viewers (this process) and a small steady load (this process) --> headrace serve, the real model

Windows without a viewer, with one and with five take turns, at rest and under the load; CPU is that of the server's
process (schedstat of its threads). Under the load most of it is the model's and varies more than viewers cost: there
the event loop's thread is counted alone, and what the engine's thread does for a frame is measured by itself, on the
largest tree that it walks. With `--browser` the view "Live" stands open in Chromium, whose main thread is counted.
"""

import argparse
import json
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np

from bench.report import Row, publish, row
from bench.serving import Server, serving
from headrace.engine.kv.pool import PagePool
from headrace.engine.kv.prefix import PrefixTree
from headrace.engine.kv.salt import NO_SALT
from headrace.engine.picture import draw_tree
from headrace.kernels.plan import KvKind

VIEWERS: Final = (0, 1, 5)
WARM_PROMPTS: Final = 40
TREE_PAGES: Final = 16_000
WORDS: Final = (
    "the mill turns while water",
    "runs over its wheel and",
    "grain becomes flour for",
    "bread that people eat",
)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="a GGUF file")
    parser.add_argument("--seconds", type=float, default=20.0, help="of one window")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rate", type=float, default=0.5, help="requests a second of the load")
    parser.add_argument("--browser", type=Path, help="Chromium's program, to measure the page as well")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    notes: dict[str, Any] = {}
    with serving(options.model, 1, KvKind.INT8) as server:
        _warm(server)
        notes["frame_bytes"] = _frame_bytes(server)
        rows = [*_rows(server, options, "idle"), *_loaded(server, options), _walk(options.repeats)]
        if options.browser is not None:
            rows.append(_page(server, options))
    config = {"seconds": options.seconds, "repeats": options.repeats, "rate": options.rate, "model": options.model.name}
    publish("console", config, rows, options.json, {"notes": notes})


def _warm(server: Server) -> None:
    """Fill the prefix tree with what real ones have: a common beginning, and branches."""
    for number in range(WARM_PROMPTS):
        _ask(server, f"{' '.join(WORDS * (4 + number % 4))} {number}", 4)


def _ask(server: Server, prompt: str, max_tokens: int) -> None:
    body = {"model": server.model, "prompt": prompt, "max_tokens": max_tokens, "temperature": 0}
    request = urllib.request.Request(
        f"http://127.0.0.1:{server.port}/v1/completions",
        json.dumps(body).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request) as answer:
        answer.read()


def _frame_bytes(server: Server) -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/v1/live?once=true") as answer:
        return len(answer.read())


def _rows(server: Server, options: argparse.Namespace, name: str) -> list[Row]:
    """What a viewer costs, as the difference of windows that follow each other."""
    one, five = [], []
    base: list[float] = []
    for _ in range(options.repeats):
        shares = {count: _window(server, count, options.seconds, without_kernels=name != "idle") for count in VIEWERS}
        base.append(shares[0])
        one.append(shares[1] - shares[0])
        five.append((shares[5] - shares[0]) / 5)
    suffix = "" if name == "loaded" else f"-{name}"
    return [
        row(f"live-feed-core-share{suffix}", "of a core, one viewer", one, {}),
        row(f"live-feed-core-share-of-5{suffix}", "of a core, each of five", five, {}),
        row(f"live-feed-base{suffix}", "of a core, no viewer", base, {}),
    ]


def _loaded(server: Server, options: argparse.Namespace) -> list[Row]:
    stop = threading.Event()

    def load() -> None:
        number = 0
        due_s = time.monotonic()
        while not stop.is_set():
            _ask(server, f"{' '.join(WORDS)} again {number % 8}", 24)
            number += 1
            due_s = max(due_s + 1 / options.rate, time.monotonic())
            stop.wait(max(0.0, due_s - time.monotonic()))

    thread = threading.Thread(target=load)
    thread.start()
    try:
        return _rows(server, options, "loaded")
    finally:
        stop.set()
        thread.join()


def _window(server: Server, viewers: int, seconds: float, *, without_kernels: bool) -> float:
    with ExitStack() as stack:
        for _ in range(viewers):
            stack.enter_context(_viewer(server.port))
        time.sleep(1.5)  # what beginning to watch costs is not what watching costs
        before, begun = _cpu_s(server.process.pid, without_kernels=without_kernels), time.monotonic()
        time.sleep(seconds)
        after, ended = _cpu_s(server.process.pid, without_kernels=without_kernels), time.monotonic()
    return (after - before) / (ended - begun)


@contextmanager
def _viewer(port: int) -> Iterator[None]:
    """Somebody who reads every frame."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"GET /v1/live HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
        reader = threading.Thread(target=_drain, args=(connection,), daemon=True)
        reader.start()
        yield
        connection.shutdown(socket.SHUT_RDWR)
        reader.join()


def _drain(connection: socket.socket) -> None:
    while connection.recv(1 << 16):
        pass


def _cpu_s(pid: int, *, without_kernels: bool) -> float:
    """Seconds of CPU that a process has used. The engine's thread computes, too, so that under a load only the event
    loop's is comparable: it is the process's first."""
    tasks = [str(pid)] if without_kernels else [one.name for one in Path(f"/proc/{pid}/task").iterdir()]
    return sum(int(Path(f"/proc/{pid}/task/{one}/schedstat").read_text().split()[0]) for one in tasks) / 1e9


def _walk(repeats: int) -> Row:
    """The picture of a tree of 16,000 pages, of which a frame walks a part: what the engine's thread does a second."""
    pool = PagePool.over(np.zeros((TREE_PAGES, 1), np.uint16))
    tree, number = PrefixTree(pool), 0
    while pool.free:
        keys = [b"%d" % part for part in (number % 5, number % 50, number, *range(29))]
        node, found = tree.match(NO_SALT, keys)
        for key in keys[len(found) :]:
            if pool.free:
                node = tree.insert(node, key, pool.take())
        tree.release(node)
        number += 1
    taken = []
    for _ in range(10 * repeats):
        begun = time.perf_counter()
        draw_tree(tree, pool)
        taken.append(1000 * (time.perf_counter() - begun))
    return row("live-feed-walk-ms", "ms of the engine's thread a frame", taken, {}, lower_is_better=True)


def _page(server: Server, options: argparse.Namespace) -> Row:
    """What of its main thread the open view takes, between one frame and the next and for each."""
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 - the other rows need no browser

    shares = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=options.browser, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{server.port}/console/live")
        page.get_by_role("heading", name="Prefix tree").wait_for()
        session = page.context.new_cdp_session(page)
        session.send("Performance.enable")
        for _ in range(options.repeats):
            before, begun = _task_s(session), time.monotonic()
            page.wait_for_timeout(1000 * options.seconds)
            shares.append((_task_s(session) - before) / (time.monotonic() - begun))
        browser.close()
    return row("live-page-main-thread-share", "of its main thread", shares, {})


def _task_s(session: Any) -> float:
    metrics = session.send("Performance.getMetrics")["metrics"]
    return float(next(one["value"] for one in metrics if one["name"] == "TaskDuration"))


if __name__ == "__main__":
    main()
