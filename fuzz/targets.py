"""Every fuzz target: the codecs one by one, and the routes around them."""

from fuzz import openai_codec
from fuzz.exchanges import Exchanges

CODECS = [*openai_codec.TARGETS]
TARGETS = [*CODECS, *Exchanges().targets(CODECS)]
