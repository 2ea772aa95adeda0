"""Policies and services around a backend: what acts between the wire's codecs and the model."""
