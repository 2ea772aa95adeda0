"""The tables of a settings file that describe records: of answers, and of what administrators do. Reads values and
refuses what is wrong; opens nothing."""

from typing import Any, Final

from headrace.cli.kinds import TEXT, TRUTH, Kind, WrongKey, integer, one_of, table
from headrace.cli.server_tables import PATH
from headrace.trust.records.settings import ActionSettings, RecordMode, RecordsSettings


def _records(**given: Any) -> RecordsSettings:
    try:
        return RecordsSettings(**({"mode": RecordMode.MONITOR} | given))
    except ValueError as error:
        name, _, sentence = str(error).partition(": ")
        raise WrongKey(name, sentence) from error


RECORDS: Final[Kind] = table(
    _records,
    {
        "mode": one_of(RecordMode, RecordMode, "mode"),
        "node": TEXT,
        "node_key": TEXT,
        "node_public": PATH,
        "keeps_content": TRUTH,
        "content_days": integer(1, 36_500),
        "keeps_names": TRUTH,
        "keeps_envelopes": TRUTH,
        "is_inline": TRUTH,
        "waits": TRUTH,
    },
)
ACTIONS: Final[Kind] = table(
    ActionSettings,
    {"days": integer(1, 36_500), "max_actions": integer(100, 10_000_000), "max_visits": integer(100, 1_000_000)},
)
