"""The wire protocols from their other side: neutral requests to bytes, and a remote backend's bytes to events."""
