"""Overseers of requests and their answers: policies, monitors and the recorder, and the chain that joins them."""
