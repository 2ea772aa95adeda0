"""What is laid over a model from outside."""
