"""Measurements: speed beside a peer, with a quality number. Never imported by the package, never run by the tests."""
