"""Monitors: they look at requests and answers and raise verdicts. Values in, values out; what follows is decided
elsewhere."""
