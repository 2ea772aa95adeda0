"""What is remembered between runs and requests, kept in the state database."""
