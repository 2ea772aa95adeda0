"""The time of day as policies see it."""

MINUTE_S = 60
DAY_S = 86_400


def moment(unix_s: float) -> dict[str, int]:
    """Minute of the day and day of the week in UTC. 1970-01-01 was a Thursday, day 4."""
    days, second = divmod(int(unix_s), DAY_S)
    return {"minute": second // MINUTE_S, "weekday": (days + 3) % 7 + 1}
