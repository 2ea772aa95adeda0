"""The tables of a settings file that describe policies. Reads values; the files that they name are `policy.py`'s."""

from typing import Final

from headrace.cli.gateway_tables import NAME
from headrace.cli.kinds import integer, named, one_of, several, table
from headrace.cli.server_tables import PATH
from headrace.trust.policy.settings import SETS, PolicyMode, PolicySettings, SubjectSettings

_SUBJECT: Final = table(SubjectSettings, {"groups": several(NAME), "facts": named(NAME)})
POLICY: Final = table(
    PolicySettings,
    {
        "mode": one_of(PolicyMode, PolicyMode),
        "sets": several(one_of(SETS, str, "set of policies that ships")),
        "files": several(PATH, or_one=True),
        "subjects": named(_SUBJECT),
        "decisions": integer(1, 10**6),
    },
)
