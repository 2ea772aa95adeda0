"""Playwright's assertions, which wait for what a person would see. Without Playwright its tests are skipped."""

from typing import Any

import pytest

expect: Any = pytest.importorskip("playwright.sync_api", reason="needs a browser: run `make test-console`").expect
