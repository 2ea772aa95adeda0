"""Which tokens fill in the middle, by key and by name."""

import pytest

from headrace.models.filling import find_filling


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (["a", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>"], ([1, 3, 2], [1, 2, 3, 4])),
        (["<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<file_sep>"], ([0, 1, 2], [0, 1, 2, 3])),
        (
            ["<\uff5cfim\u2581end\uff5c>", "<\uff5cfim\u2581begin\uff5c>", "<\uff5cfim\u2581hole\uff5c>"],
            ([1, 2, 0], [0, 1, 2]),
        ),
        (["<fim_prefix>", "<fim_suffix>"], ([], [])),
        (["a", "<file_sep>"], ([], [])),
    ],
)
def test_tokens_are_known_by_their_names(tokens: list[str], expected: tuple[list[int], list[int]]) -> None:
    assert find_filling({text: number for number, text in enumerate(tokens)}) == expected


def test_the_keys_of_a_file_go_before_names_and_must_be_tokens() -> None:
    ids = {"<fim_prefix>": 0, "<fim_suffix>": 1, "<fim_middle>": 2, "P": 3, "S": 4, "M": 5, "X": 6}
    keys = {f"tokenizer.ggml.fim_{name}_token_id": token for name, token in (("pre", 3), ("suf", 4), ("mid", 5))}
    assert find_filling(ids, keys, 7) == ([3, 4, 5], [3, 4, 5])
    assert find_filling(ids, {**keys, "tokenizer.ggml.fim_sep_token_id": 6}, 7)[1] == [3, 4, 5, 6]
    assert find_filling(ids, {**keys, "tokenizer.ggml.fim_mid_token_id": 7}, 7)[0] == [0, 1, 2]
    older = {f"tokenizer.ggml.{name}_token_id": token for name, token in (("prefix", 3), ("suffix", 4), ("middle", 5))}
    assert find_filling({}, older, 7)[0] == [3, 4, 5]
