"""Tool calls as models write them: read from text while it comes, asked for by grammars, and told to models that were
never taught any."""
