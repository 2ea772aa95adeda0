"""Binds sockets to codecs and to the backend it is given; knows no model and no engine."""
