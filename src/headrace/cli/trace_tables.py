"""How the table `[traces]` is read. Refuses what is wrong by itself; opens nothing."""

from typing import Final

from headrace.cli.gateway_tables import HEADERS, NAME, SECRET, URL
from headrace.cli.kinds import TRUTH, integer, number, seconds, table, word
from headrace.cli.trace_table import TraceTable

TRACES: Final = table(
    TraceTable,
    {
        "is_on": TRUTH,
        "endpoint": URL,
        "secret": SECRET,
        "secret_header": word(
            r"[a-z0-9-]{1,64}(: [A-Za-z]{1,32})?",
            str,
            'is no header; write its name, and maybe a word before the secret: "authorization: Basic", "x-api-key"',
        ),
        "headers": HEADERS,
        "service": NAME,
        "sample_ratio": number(0, 1),
        "captures_content": TRUTH,
        "max_queue": integer(16, 1_000_000),
        "delay_s": seconds(0.01, 60),
        "timeout_s": seconds(0.1, 600),
    },
)
