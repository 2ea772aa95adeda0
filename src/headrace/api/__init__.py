"""Wire protocols as codecs: bytes to requests, events to bytes. No sockets, no clocks, no ids of its own making."""
