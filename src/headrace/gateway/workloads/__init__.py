"""This program's own workload identity: where it comes from, and what is made of it on connections."""
