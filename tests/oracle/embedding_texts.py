"""Texts of many kinds whose ids and vectors are recorded from sentence-transformers."""

_LONG = (
    "A mill's headrace is the channel that brings water to its wheel; the tailrace takes it away again. Between the "
    "two lies the whole fall, and so the whole power of the place. "
)

TEXTS = (
    "",
    " ",
    "hello",
    ".",
    "This is a test.",
    "What is the capital of France?",
    "Paris is the capital and largest city of France.",
    "A man is eating food while a woman watches the rain fall on the harbour.",
    "def add(a, b):\n    return a + b  # the sum\n",
    '{"name": "headrace", "version": [0, 5, 2], "ok": true}',
    "3.14159 2026-11-26T06:00:00Z +49 (0)30 1234567 $19.99 50% 1e-12",
    "Der schnelle braune Fuchs springt über den faulen Hund. Größe, Maß, Straße!",
    "Le cœur déçu mais l'âme plutôt naïve, Louÿs rêva de crapaüter en canoë.",
    "東京は日本の首都です。 北京是中国的首都。 서울은 대한민국의 수도입니다.",
    "Привет, как дела? Γειά σου Κόσμε! שלום עולם مرحبا بالعالم",
    "😀 🎉 👩‍👩‍👧 ❤️ thumbs up 👍🏽",
    "e\u0301 and \u00e9 and \ufb01 and \u200bzero\u00a0width\x07 and \ttabs\r\n",
    "pneumonoultramicroscopicsilicovolcanoconiosis " + "x" * 120,
    "http://example.com/a/very/long/path?with=queries&and=more#fragment user@example.org C:\\Temp\\file.txt",
    "!!! ??? --- ((())) <<>> \u2014 \u201cquoted\u201d \u2026",
    _LONG,
    _LONG * 12,  # more than 256 tokens
)
