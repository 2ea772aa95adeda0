"""The log over HTTP: its files as they lie, told how long they last, and no other file by any path."""

import asyncio
from pathlib import Path

import pytest
from tests.doubles_http import ask
from tests.doubles_log import item, open_writer

from headrace.gateway.notary.public import LogShelf
from headrace.memory.log_files import LogFolder

