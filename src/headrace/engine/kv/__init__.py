"""Where keys and values live: the page pool and the prefix tree over it."""
