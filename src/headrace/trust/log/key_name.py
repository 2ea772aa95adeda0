"""What may be a key's name in signed notes. Knows no keys."""


def is_key_name(name: str) -> bool:
    """signed-note, Format: non-empty, without Unicode spaces and plus; and as text of a note, without controls."""
    return bool(name) and "+" not in name and not any(one.isspace() or one < " " for one in name)
