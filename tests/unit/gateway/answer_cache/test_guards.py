"""What keeps two questions apart that mean nearly the same."""

import pytest

from headrace.gateway.answer_cache.guards import may_share

ALIKE = [
    ("How do I reset my password?", "How can I reset my password?"),
    ("What is the capital of France?", "Tell me the capital of France."),
    ("Summarise the plot of Hamlet.", "Give me a summary of Hamlet's plot."),
    ("Explain photosynthesis to a child.", "Explain photosynthesis for a kid."),
    ("How do I raise the limit?", "How do I increase the limit?"),
    ("How do I cook rice?", "What is the best way to cook rice?"),
    ("I think, therefore I am.", "Why do I think?"),
    ("Isn't it blue?", "Is it not blue?"),
    ('What does "stop" mean?', 'What is meant by "stop"?'),
]
APART = [
    ("What is 5 plus 7?", "What is 5 plus 8?"),
    ("Add 3 and 4.", "Add 4 and 3."),
    ("It costs 1.50 euros.", "It costs 1.60 euros."),
    ("What is the capital of France?", "What is the capital of Spain?"),
    ("May I delete it?", "May I not delete it?"),
    ("Does it work?", "Doesn't it work?"),
    ("Wie kann ich das tun?", "Wie kann ich das nicht tun?"),
    ("Hat er ein Auto?", "Hat er kein Auto?"),
    ('What does "stop" mean?', 'What does "start" mean?'),
    ("What does 'stop' mean?", "What does 'go' mean?"),
    ("What does `ls -l` do?", "What does `ls -a` do?"),
    ("Increase the volume.", "Decrease the volume."),
    ("Does it come before lunch?", "Does it come after lunch?"),
    ("Is the shop open on Monday?", "Is the shop open on Tuesday?"),
    ("Pick two of them.", "Pick three of them."),
    ("What does read_file do?", "What does write_file do?"),
    ("What does readFile do?", "What does openFile do?"),
    ("Where is /etc/passwd?", "Where is /etc/hosts?"),
    ("Is gpt4o good?", "Is gpt5o good?"),
    ("Enable the firewall", "disable the firewall"),
]


@pytest.mark.parametrize(("one", "other"), ALIKE)
def test_other_words_for_the_same_may_share_an_answer(one: str, other: str) -> None:
    assert may_share(one, other)
    assert may_share(other, one)


@pytest.mark.parametrize(("one", "other"), APART)
def test_what_turns_a_meaning_keeps_questions_apart(one: str, other: str) -> None:
    assert not may_share(one, other)
    assert not may_share(other, one)
    assert may_share(one, one)
