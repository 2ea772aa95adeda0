"""What may be a key's name in signed notes. Knows no keys."""


def is_key_name(name: str) -> bool:
    """signed-note, Format: non-empty, without Unicode spaces and plus; as text of a note UTF-8, without controls."""
    return bool(name) and "+" not in name and not any(map(_is_forbidden, name))


def _is_forbidden(one: str) -> bool:
    return one.isspace() or one < " " or "\ud800" <= one <= "\udfff"
