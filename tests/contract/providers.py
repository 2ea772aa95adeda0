"""All protocols that backends speak. Knows nothing of them."""

from tests.contract.provider_chat import CHAT
from tests.contract.provider_gemini import GEMINI
from tests.contract.provider_messages import MESSAGES

PROVIDERS = [CHAT, MESSAGES, GEMINI]
