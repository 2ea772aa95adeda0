"""All tables of a settings file, by name. Knows what each may hold, and nothing of files."""

from collections.abc import Mapping
from typing import Final

from headrace.cli.delegation_tables import DELEGATION
from headrace.cli.flow_tables import FLOW, TOOL
from headrace.cli.gateway_tables import BACKEND, BUDGET, CACHE, LIMIT, PRICES, ROUTE, TENANT
from headrace.cli.hijack_tables import HIJACK
from headrace.cli.identity_tables import ANSWERS, IDENTITY
from headrace.cli.kinds import Kind, named, several
from headrace.cli.log_tables import LOG
from headrace.cli.policy_tables import POLICY
from headrace.cli.records_tables import ACTIONS, RECORDS
from headrace.cli.server_tables import CONSOLE, CORS, KEY, TLS
from headrace.cli.spiffe_tables import SPIFFE
from headrace.cli.supply_tables import MODEL_SIGNATURES
from headrace.cli.theft_tables import THEFT
from headrace.cli.trace_tables import TRACES

TABLES: Final[Mapping[str, Kind]] = {
    "prices": named(PRICES),
    "backends": named(BACKEND),
    "routes": named(ROUTE),
    "budgets": several(BUDGET),
    "limits": several(LIMIT),
    "tenants": named(TENANT),
    "answer_cache": CACHE,
    "keys": several(KEY),
    "tls": TLS,
    "cors": CORS,
    "console": CONSOLE,
    "traces": TRACES,
    "model_signatures": MODEL_SIGNATURES,
    "policy": POLICY,
    "delegation": DELEGATION,
    "spiffe": SPIFFE,
    "theft": THEFT,
    "identity": IDENTITY,
    "answer_signatures": ANSWERS,
    "log": LOG,
    "flow": FLOW,
    "tools": named(TOOL),
    "hijack": HIJACK,
    "records": RECORDS,
    "actions": ACTIONS,
}
