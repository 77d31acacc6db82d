"""What a part raises where it cannot be run here."""


class Missing(Exception):
    """An extra, a program or a privilege is not there; the message says which."""
