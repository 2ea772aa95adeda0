"""Many requests become batches become tokens: scheduler, pages, prefix tree, runner, and the text around them."""
