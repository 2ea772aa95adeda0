"""Peers: each in its own environment and process, behind a line of JSON."""
