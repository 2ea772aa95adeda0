"""What a server is given beside its backend: services whose routes exist if the service does. Knows no routes."""

from dataclasses import dataclass

from headrace.api.responses_service import ConversationsService, ResponsesService
from headrace.core.accounts import AccountBook, KeyBook
from headrace.core.actions import ActionBook
from headrace.core.batch import Batches
from headrace.core.cache import Caches
from headrace.core.deciding import Deciding
from headrace.core.delegating import Delegating
from headrace.core.endorsing import Endorsing
from headrace.core.explanation import Explaining
from headrace.core.file import Files
from headrace.core.identity import AnswerSigner
from headrace.core.model_library import Library
from headrace.core.monitors import Monitors
from headrace.core.paths import RequestPaths
from headrace.core.provenance import RecordBook
from headrace.core.public_log import PublicLog
from headrace.core.service import Adapters, Completions, Operations, Reloading, Residents, Tokens
from headrace.core.sessions import SessionSeal
from headrace.core.watching import Watching


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """See each protocol; None: the server has no such routes. `answer_signer` has none: it signs whole answers. Without
    `session_seal` nobody can sign in at the console; without `watching` `/v1/live` shows no engine;
    without `actions` no change is remembered."""

    adapters: Adapters | None = None
    residents: Residents | None = None
    completions: Completions | None = None
    tokens: Tokens | None = None
    responses: ResponsesService | None = None
    conversations: ConversationsService | None = None
    files: Files | None = None
    batches: Batches | None = None
    caches: Caches | None = None
    model_library: Library | None = None
    reloading: Reloading | None = None
    operations: Operations | None = None
    explaining: Explaining | None = None
    paths: RequestPaths | None = None
    accounts: AccountBook | None = None
    key_book: KeyBook | None = None
    answer_signer: AnswerSigner | None = None
    monitors: Monitors | None = None
    deciding: Deciding | None = None
    public_log: PublicLog | None = None
    records: RecordBook | None = None
    delegating: Delegating | None = None
    session_seal: SessionSeal | None = None
    endorsing: Endorsing | None = None
    watching: Watching | None = None
    actions: ActionBook | None = None
