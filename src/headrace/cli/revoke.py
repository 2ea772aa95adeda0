"""`headrace records revoke`: the node takes a record key back, in its log for everybody to see."""

import asyncio
import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import typer

from headrace.cli.config import compose
from headrace.cli.log import open_log
from headrace.cli.node_signer import open_node_signer
from headrace.cli.recorded import recorded
from headrace.core.clock import SystemClock
from headrace.core.errors import InvalidRequest
from headrace.core.provenance import LogItem
from headrace.models.store import Layout, open_home
from headrace.trust.log.settings import LogSettings
from headrace.trust.records.commitment import entry_of
from headrace.trust.records.keys import Revocation, sign_by_node

_KEY_ID: Final = re.compile("[0-9a-f]{64}")


def run_revoke(key_id: str, since: int | None, reason: str, flags: Mapping[str, Any], config: Path | None) -> None:
    """Log the revocation. Raises HeadraceError, Conflict while a server has the log."""
    if not _KEY_ID.fullmatch(key_id):
        raise InvalidRequest(f"key_id: {key_id!r:.80} is none; it has 64 hexadecimal digits.", param="key_id")
    settings = compose(flags, os.environ, config).settings
    layout = open_home(settings.home)
    now_s = SystemClock().unix_s()
    from_s = int(now_s) if since is None else since
    signer = open_node_signer(settings.trust.records, layout)
    revocation = Revocation(node=settings.trust.records.node, key_id=key_id, from_s=from_s, reason=reason)
    envelope = sign_by_node(signer, revocation.encode())
    item = LogItem(
        id=f"rvk_{secrets.token_hex(12)}",
        kind="revocation",
        tenant="",
        entry=entry_of("revocation", envelope, now_s).encode(),
        envelope=envelope,
    )
    with recorded(settings.home, "records revoke", key_id, {"from_s": from_s, "reason": reason}):
        index = asyncio.run(_log(item, settings.trust.log, layout))
    typer.echo(f"revoked {key_id} {from_s}")
    typer.echo(f"The log has it at {index}. Give the line above to whoever has your trust file.", err=True)


async def _log(item: LogItem, settings: LogSettings, layout: Layout) -> int:
    async with open_log(settings, layout) as log:
        log.notary.submit(item)
        return await log.notary.merged(item.id)
