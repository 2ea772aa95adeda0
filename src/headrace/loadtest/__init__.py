"""Load for any server that speaks OpenAI's protocol, and what it did under it: arrivals, measures, a report."""
