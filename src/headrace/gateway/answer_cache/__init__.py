"""Answers that are given again: to the same request, or to one that asks the same in other words."""
