"""What tests of the console share: the server, a browser, pages that are signed in, and what is looked at on each.

They need Chromium and Playwright, which other tests do not: `make test-console` installs both and runs them.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from tests.console.served import ConsoleServer, serving
from tests.console.wild import Wild, wild_backend

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

ROOT: Final = Path(__file__).parents[2]
IMAGES: Final = ROOT / "docs" / "images"
AXE: Final = ROOT / "console" / "node_modules" / "axe-core" / "axe.min.js"
CHROMIUM: Final = os.environ.get("CHROMIUM", "/usr/bin/chromium")
HEADER: Final = {"x-headrace-console": "1"}
# The browser says in its console what a page is told by the status already.
_EXPECTED: Final = "Failed to load resource"
_PATIENCE_MS: Final = 20_000.0  # for what a slow machine shows in the end


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs a browser is skipped where nobody asked for one, and else comes last: once it is open its loop runs in
    this thread, and no test can have another."""
    here = Path(__file__).parent
    ours = [item for item in items if here in item.path.parents and _needs_browser(item)]
    if os.environ.get("CONSOLE_BROWSER") != "1":
        for item in ours:
            item.add_marker(pytest.mark.skip(reason="needs a browser: run `make test-console`"))
        return
    items[:] = [item for item in items if item not in ours] + ours


def _needs_browser(item: pytest.Item) -> bool:
    return not {"browser", "console_server"}.isdisjoint(getattr(item, "fixturenames", ()))


@pytest.fixture(scope="session")
def console_server(smollm2_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsoleServer]:
    """See `served.py`. One for all tests: a test that changes what others rely on changes it back."""
    with serving(tmp_path_factory.mktemp("console"), smollm2_path) as server:
        yield server


@pytest.fixture(scope="module")
def wild() -> Iterator[Wild]:
    """A backend whose model does what the last text that it read says; one for each file of tests."""
    with wild_backend() as server:
        yield server


@pytest.fixture(scope="session")
def browser() -> "Iterator[Browser]":
    """Debian's Chromium."""
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=_PATIENCE_MS)
    with sync_playwright() as playwright:
        # A browser that runs as root needs to be told so; it sees no page but ours.
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox"] if os.getuid() == 0 else []
        )
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: "Browser", console_server: ConsoleServer) -> "Iterator[Callable[..., Page]]":
    """Opens pages, `role` signed in (None: nobody), with `options` of a browser's context. Afterwards no page may have
    asked another host for anything, broken its own policy, or met an error that nobody caught."""
    opened: list[tuple[BrowserContext, list[str]]] = []

    def open_one(role: str | None = "admin", key: str | None = None, **options: Any) -> "Page":
        context = browser.new_context(base_url=console_server.url, locale="en-GB", **options)
        context.set_default_timeout(_PATIENCE_MS)
        problems: list[str] = []
        opened.append((context, problems))
        page = context.new_page()
        _watch(page, console_server.url, problems)
        if role is not None or key is not None:
            shown = key or console_server.keys[role or ""]
            headers = HEADER | {"authorization": f"Bearer {shown}"}
            assert context.request.post("/console/session", headers=headers).ok
        return page

    yield open_one
    for context, problems in opened:
        context.close()
        assert problems == []


def _watch(page: "Page", own: str, problems: list[str]) -> None:
    page.on("pageerror", lambda error: problems.append(f"an error nobody caught: {error}"))
    page.on(
        "console",
        lambda said: (
            problems.append(f"{said.type}: {said.text}")
            if said.type in ("error", "warning") and _EXPECTED not in said.text
            else None
        ),
    )
    page.on(
        "request",
        lambda asked: (
            None if asked.url.startswith((own, "data:", "blob:")) else problems.append(f"asked for {asked.url}")
        ),
    )
    page.add_init_script(
        "addEventListener('securitypolicyviolation', "
        "(one) => console.error(`CSP: ${one.violatedDirective} ${one.blockedURI}`))"
    )


@pytest.fixture
def page(open_page: "Callable[..., Page]") -> "Page":
    """A page of the administrator's."""
    return open_page()


@pytest.fixture
def check_accessible() -> "Callable[[Page], None]":
    """No serious fault that axe-core finds (WCAG 2.2 A and AA, and its best practices)."""

    def check(page: "Page") -> None:
        page.evaluate(AXE.read_text("utf-8"))
        found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        serious = [
            f"{one['id']} ({one['impact']}): {one['help']} at {[node['target'] for node in one['nodes']][:4]}"
            for one in found["violations"]
            if one["impact"] in ("serious", "critical")
        ]
        assert serious == []

    return check


@pytest.fixture
def shoot(tmp_path: Path) -> "Callable[..., None]":
    """A picture for the documents, docs/images/console-NAME.png; only a try unless CONSOLE_PICTURES is 1, as `make
    test-console` sets it."""
    folder = IMAGES if os.environ.get("CONSOLE_PICTURES") == "1" else tmp_path

    def take(page: "Page", name: str, **options: Any) -> None:
        folder.mkdir(exist_ok=True)
        page.screenshot(path=folder / f"console-{name}.png", animations="disabled", **options)

    return take
