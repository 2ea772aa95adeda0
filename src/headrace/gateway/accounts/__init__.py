"""Budgets and limits: who may spend how much, and how often, over which time."""
