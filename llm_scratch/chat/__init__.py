"""Talking with a model: sessions, the terminal, the engine of the server, and the server."""
