"""What erasing a tenant takes of its records: nonces, content, the tenant's name and, unless the operator keeps them,
envelopes. The log's commitments stay, and open to nothing then. Beside a running server or without one."""

from collections.abc import Sequence

from headrace.cli.config import Settings
from headrace.memory import provenance
from headrace.memory.database import Database
from headrace.memory.provenance import Erasure
from headrace.models.store import Layout


def erase_records(settings: Settings, layout: Layout, tenant: str) -> int:
    """Erase a tenant's records; of how many something was left to erase."""
    if not layout.provenance.exists():
        return 0
    erasure = Erasure(tenant=tenant, parts=erased_parts(settings))
    num_erased = 0
    with Database(layout.provenance, provenance.MIGRATIONS) as database:
        while num := database.transact_durably(provenance.erase, erasure):
            num_erased += num
        while database.transact_durably(provenance.forget_tenant, tenant):
            pass
        database.empty_log()
    return num_erased


def erased_parts(settings: Settings) -> Sequence[str]:
    """What erasing takes."""
    return ("secrets", "content") if settings.trust.records.keeps_envelopes else provenance.PARTS
