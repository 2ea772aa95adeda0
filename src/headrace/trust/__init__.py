"""Who asked, what was allowed, and proof of what was answered. Judges, and does no I/O of its own."""
