"""The table of a settings file that says who must have signed models. Opens nothing."""

from typing import Any, Final

from headrace.cli.kinds import Kind, WrongKey, one_of, several, table, word
from headrace.cli.server_tables import PATH
from headrace.trust.supply.settings import Mode, SupplySettings


def _supply(**given: Any) -> SupplySettings:
    settings = SupplySettings(**given)
    if settings.mode is not Mode.OFF and not (settings.keys or settings.authorities):
        raise WrongKey("mode", 'needs somebody who may sign; name files: keys = ["publisher.pem"], or authorities')
    if settings.signers and not settings.authorities:
        raise WrongKey("signers", "are names in certificates; name authorities, too")
    return settings


MODEL_SIGNATURES: Final[Kind] = table(
    _supply,
    {
        "mode": one_of(Mode, Mode, "mode"),
        "keys": several(PATH),
        "authorities": several(PATH),
        "signers": several(word(r"[^\s]{1,200}", str, "is no e-mail address, URI or host name"), frozenset),
    },
    needs=("mode",),
)
