"""Backends as the gateway asks them: the embedded engine, and remote ones over HTTP. One attempt, no policies."""
