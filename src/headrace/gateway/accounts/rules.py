"""Budgets and limits from their two sources: the settings file, which cannot be changed otherwise, and what is set
while a server runs. One name means one rule. Values in, values out, but for the one reading of the store."""

import math
import re
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from headrace.core.accounts import BudgetRule, LimitRule
from headrace.core.errors import InvalidRequest
from headrace.gateway.accounts.subjects import parse_subject
from headrace.gateway.settings import BudgetSettings, LimitSettings, Window
from headrace.memory.rules import load_budgets, load_limits

MAX_MONEY: Final = 1e9
MAX_COUNT: Final = 2**53
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._@-]{0,63}")


@dataclass(frozen=True, slots=True)
class Rules:
    """All budgets and limits of one source, or of both."""

    budgets: tuple[BudgetSettings, ...] = ()
    limits: tuple[LimitSettings, ...] = ()

    def with_stored(self, budgets: Iterable[BudgetRule], limits: Iterable[LimitRule]) -> "Rules":
        """These and what was set while a server ran. Raises InvalidRequest for a name that both have."""
        all_budgets = [*self.budgets, *map(budget_settings, budgets)]
        all_limits = [*self.limits, *map(limit_settings, limits)]
        for what, names in (
            ("budget", [one.name for one in all_budgets]),
            ("limit", [one.name for one in all_limits]),
        ):
            if len(set(names)) < len(names):
                twice = next(name for name in names if names.count(name) > 1)
                raise InvalidRequest(
                    f"{what}s: {twice!r} is the name of a {what} of the settings file and of one that was set beside "
                    f"it; rename the former, or remove the latter (`headrace {what}s remove`)."
                )
        return Rules(tuple(all_budgets), tuple(all_limits))


def load_rules(connection: sqlite3.Connection) -> tuple[tuple[BudgetRule, ...], tuple[LimitRule, ...]]:
    """What was set while a server ran."""
    return load_budgets(connection), load_limits(connection)


def budget_settings(rule: BudgetRule) -> BudgetSettings:
    """A budget that somebody wrote, checked. Raises InvalidRequest naming the field, the value and the remedy."""
    _check_name(rule.name)
    if rule.window not in set(Window):
        raise InvalidRequest(f"window: {rule.window[:100]!r} is none of {', '.join(Window)}.", param="window")
    if rule.money is None and rule.tokens is None:
        raise InvalidRequest("money: neither money nor tokens are given; give one of them, or both.", param="money")
    if rule.money is not None and not (0 <= rule.money <= MAX_MONEY and math.isfinite(rule.money)):
        raise InvalidRequest(f"money: {rule.money} is not in [0, {MAX_MONEY:g}].", param="money")
    _check_count("tokens", rule.tokens, 0)
    subject = parse_subject(rule.subject)
    return BudgetSettings(
        name=rule.name, subject=subject, window=Window(rule.window), money=rule.money, tokens=rule.tokens
    )


def limit_settings(rule: LimitRule) -> LimitSettings:
    """A limit that somebody wrote, checked. Raises InvalidRequest as `budget_settings`."""
    _check_name(rule.name)
    measures = {
        "requests_per_minute": rule.requests_per_minute,
        "tokens_per_minute": rule.tokens_per_minute,
        "concurrency": rule.concurrency,
    }
    if all(value is None for value in measures.values()):
        raise InvalidRequest(f"{', '.join(measures)}: none is given; give one of them.", param="requests_per_minute")
    for name, value in measures.items():
        _check_count(name, value, 1)
    return LimitSettings(name=rule.name, subject=parse_subject(rule.subject), **measures)


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise InvalidRequest(
            f"name: {name[:100]!r} must be 1 to 64 letters, digits, spaces, dots, dashes, underscores or @.",
            param="name",
        )


def _check_count(name: str, value: int | None, least: int) -> None:
    if value is not None and not least <= value <= MAX_COUNT:
        raise InvalidRequest(f"{name}: {value} is not in [{least}, {MAX_COUNT}].", param=name)
