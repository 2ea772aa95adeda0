"""Every vendor's batches, by the name that an order carries: `BatchOrder.dialect`."""

from typing import Final

from headrace.api import anthropic_batches, batches
from headrace.api.batch_lines import BatchDialect

DIALECTS: Final[dict[str, BatchDialect]] = {one.name: one for one in (batches.DIALECT, anthropic_batches.DIALECT)}
