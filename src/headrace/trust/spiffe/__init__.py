"""Workload identity by the SPIFFE standards: names, documents that carry them, keys that vouch for those, an issuer."""
