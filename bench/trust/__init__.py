"""What trust costs and what it is worth, part by part: `python -m bench.trust`."""
