"""Answers held to a form: grammars, what they are compiled from, and the state of one answer."""
