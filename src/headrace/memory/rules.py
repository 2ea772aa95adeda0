"""Budgets and limits that were set while a server ran, beside those of its settings file. Functions over a connection;
knows neither what they mean nor whether they are right."""

import sqlite3
from collections.abc import Sequence

from headrace.core.accounts import BudgetRule, LimitRule


def load_budgets(connection: sqlite3.Connection) -> tuple[BudgetRule, ...]:
    """All of them, by name."""
    rows = connection.execute("SELECT name, subject, window, money, tokens FROM budgets ORDER BY name")
    return tuple(
        BudgetRule(name=name, subject=subject, window=window, money=money, tokens=tokens)
        for name, subject, window, money, tokens in rows
    )


def save_budget(connection: sqlite3.Connection, rule: BudgetRule) -> None:
    """Add one, or change the one of that name."""
    connection.execute(
        "INSERT OR REPLACE INTO budgets (name, subject, window, money, tokens) VALUES (?, ?, ?, ?, ?)",
        (rule.name, rule.subject, rule.window, rule.money, rule.tokens),
    )


def delete_budget(connection: sqlite3.Connection, name: str) -> bool:
    """Forget one; whether there was one."""
    return connection.execute("DELETE FROM budgets WHERE name = ?", (name,)).rowcount > 0


def load_limits(connection: sqlite3.Connection) -> tuple[LimitRule, ...]:
    """All of them, by name."""
    rows = connection.execute(
        "SELECT name, subject, requests_per_minute, tokens_per_minute, concurrency FROM limits ORDER BY name"
    )
    return tuple(
        LimitRule(
            name=name, subject=subject, requests_per_minute=requests, tokens_per_minute=tokens, concurrency=running
        )
        for name, subject, requests, tokens, running in rows
    )


def save_limit(connection: sqlite3.Connection, rule: LimitRule) -> None:
    """Add one, or change the one of that name."""
    connection.execute(
        "INSERT OR REPLACE INTO limits (name, subject, requests_per_minute, tokens_per_minute, concurrency) "
        "VALUES (?, ?, ?, ?, ?)",
        (rule.name, rule.subject, rule.requests_per_minute, rule.tokens_per_minute, rule.concurrency),
    )


def delete_limit(connection: sqlite3.Connection, name: str) -> bool:
    """Forget one; whether there was one."""
    return connection.execute("DELETE FROM limits WHERE name = ?", (name,)).rowcount > 0


def erase(connection: sqlite3.Connection, tenant: str, keys: Sequence[str]) -> int:
    """Forget the rules that name a tenant, its users or its keys; how many."""
    subjects = [f"tenant:{tenant}", *(f"key:{key}" for key in keys)]
    removed = 0
    for table in ("budgets", "limits"):
        for subject in subjects:
            removed += connection.execute(f"DELETE FROM {table} WHERE subject = ?", (subject,)).rowcount  # noqa: S608
        removed += connection.execute(
            f"DELETE FROM {table} WHERE subject >= ? AND subject < ?",  # noqa: S608  (constants)
            (f"user:{tenant}/", f"user:{tenant}0"),
        ).rowcount
    return removed
