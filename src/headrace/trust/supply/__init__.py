"""Where a model comes from: signatures over its files, and its bill of materials."""
