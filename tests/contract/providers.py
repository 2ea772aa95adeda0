"""All protocols that backends speak. Knows nothing of them."""

from tests.contract.provider_chat import CHAT
from tests.contract.provider_gemini import GEMINI
from tests.contract.provider_messages import MESSAGES
from tests.contract.provider_responses import RESPONSES

PROVIDERS = [CHAT, RESPONSES, MESSAGES, GEMINI]
