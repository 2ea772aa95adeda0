"""The compliance cases of Open Responses (openresponses.org, specification of 2026-04-24) that go over HTTP, told again
as tests of ours: each answer fits the published schema, and does what the case is about.

The schema half is `openresponses-types`, made from the project's OpenAPI document. Cases that go over a WebSocket are
beside the tests of that transport.
"""

import json
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from openresponses_types import types as schema
from tests.contract.responses_client import MODEL, serving
from tests.doubles_http import run
from tests.scripted import Call, Scripted, Turn, has_tool, last_says, tool_results

EVENTS = {
    model.model_fields["type"].annotation: model
    for name, model in vars(schema).items()
    if name.endswith("StreamingEvent")
}
