"""The tables of the state database, as the steps by which they came about. Knows nothing of what is in them."""

from typing import Final

# Migration N brings a database of version N to N + 1: statements with a semicolon between them and none inside. Never
# edit one that was released; append.
MIGRATIONS: Final[tuple[str, ...]] = (
    """
    CREATE TABLE models (
        name      TEXT PRIMARY KEY,
        path      TEXT NOT NULL,
        sha256    TEXT NOT NULL,
        size      INTEGER NOT NULL,
        source    TEXT NOT NULL,
        pulled_at REAL NOT NULL
    ) STRICT
    """,
    """
    CREATE TABLE threads (
        tenant    TEXT NOT NULL,
        id        TEXT NOT NULL,
        used_at   REAL NOT NULL,
        num_bytes INTEGER NOT NULL,
        PRIMARY KEY (tenant, id)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX threads_by_use ON threads (used_at);
    CREATE TABLE responses (
        tenant     TEXT NOT NULL,
        id         TEXT NOT NULL,
        thread     TEXT NOT NULL,
        previous   TEXT,
        created_at REAL NOT NULL,
        status     TEXT NOT NULL,
        runner     INTEGER,
        body       BLOB NOT NULL,
        events     BLOB,
        PRIMARY KEY (tenant, id)
    ) STRICT;
    CREATE INDEX responses_by_thread ON responses (tenant, thread);
    CREATE INDEX responses_unfinished ON responses (status) WHERE status IN ('queued', 'in_progress');
    CREATE TABLE items (
        tenant    TEXT NOT NULL,
        owner     TEXT NOT NULL,
        position  INTEGER NOT NULL,
        id        TEXT NOT NULL,
        is_output INTEGER NOT NULL,
        body      BLOB NOT NULL,
        PRIMARY KEY (tenant, owner, position)
    ) STRICT;
    CREATE INDEX items_by_id ON items (tenant, id);
    CREATE TABLE conversations (
        tenant     TEXT NOT NULL,
        id         TEXT NOT NULL,
        created_at REAL NOT NULL,
        used_at    REAL NOT NULL,
        num_bytes  INTEGER NOT NULL,
        metadata   BLOB NOT NULL,
        PRIMARY KEY (tenant, id)
    ) STRICT;
    CREATE INDEX conversations_by_use ON conversations (used_at)
    """,
    """
    CREATE TABLE completions (
        number    INTEGER PRIMARY KEY AUTOINCREMENT,
        tenant    TEXT NOT NULL,
        id        TEXT NOT NULL,
        created   INTEGER NOT NULL,
        model     TEXT NOT NULL,
        metadata  TEXT NOT NULL,
        num_bytes INTEGER NOT NULL,
        messages  BLOB NOT NULL,
        answer    BLOB NOT NULL,
        UNIQUE (tenant, id)
    ) STRICT;
    CREATE INDEX completions_of_tenant ON completions (tenant, number, num_bytes)
    """,
    # `number` is the order of creation, which times in whole seconds do not tell.
    """
    CREATE TABLE files (
        number    INTEGER PRIMARY KEY AUTOINCREMENT,
        id        TEXT NOT NULL UNIQUE,
        tenant    TEXT NOT NULL,
        filename  TEXT NOT NULL,
        purpose   TEXT NOT NULL,
        num_bytes INTEGER NOT NULL,
        created_s INTEGER NOT NULL,
        expires_s INTEGER
    ) STRICT;
    CREATE INDEX files_by_tenant ON files (tenant, number);
    CREATE TABLE batches (
        number         INTEGER PRIMARY KEY AUTOINCREMENT,
        id             TEXT NOT NULL UNIQUE,
        tenant         TEXT NOT NULL,
        principal      TEXT NOT NULL,
        dialect        TEXT NOT NULL,
        endpoint       TEXT NOT NULL,
        input_file_id  TEXT NOT NULL,
        notes          TEXT NOT NULL,
        status         TEXT NOT NULL,
        created_s      INTEGER NOT NULL,
        expires_s      INTEGER NOT NULL,
        times_s        TEXT NOT NULL,
        model          TEXT,
        problems       TEXT NOT NULL DEFAULT '[]',
        num_lines      INTEGER NOT NULL DEFAULT 0,
        num_ended      INTEGER NOT NULL DEFAULT 0,
        num_failed     INTEGER NOT NULL DEFAULT 0,
        num_unrun      INTEGER NOT NULL DEFAULT 0,
        prompt_tokens  INTEGER NOT NULL DEFAULT 0,
        cached_tokens  INTEGER NOT NULL DEFAULT 0,
        output_tokens  INTEGER NOT NULL DEFAULT 0,
        thought_tokens INTEGER NOT NULL DEFAULT 0,
        output_file_id TEXT,
        error_file_id  TEXT
    ) STRICT;
    CREATE INDEX batches_by_tenant ON batches (tenant, number);
    CREATE INDEX batches_by_file ON batches (input_file_id);
    CREATE TABLE batch_lines (
        batch_id   TEXT NOT NULL,
        line       INTEGER NOT NULL,
        custom_id  TEXT NOT NULL,
        offset     INTEGER NOT NULL,
        num_bytes  INTEGER NOT NULL,
        is_failed  INTEGER,
        result     BLOB,
        PRIMARY KEY (batch_id, line)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX batch_lines_waiting ON batch_lines (batch_id, line) WHERE result IS NULL
    """,
    """
    CREATE TABLE caches (
        number       INTEGER PRIMARY KEY AUTOINCREMENT,
        id           TEXT NOT NULL UNIQUE,
        tenant       TEXT NOT NULL,
        model        TEXT NOT NULL,
        display_name TEXT NOT NULL,
        created_s    REAL NOT NULL,
        updated_s    REAL NOT NULL,
        expires_s    REAL NOT NULL,
        num_tokens   INTEGER NOT NULL,
        content      BLOB NOT NULL
    ) STRICT;
    CREATE INDEX caches_by_tenant ON caches (tenant, number)
    """,
    # A usage record's number is its run's and its own within it, which makes writing it twice the same as once: the
    # names of requests are their callers' affair, and two may have one.
    """
    CREATE TABLE ledger_runs (
        run       INTEGER PRIMARY KEY AUTOINCREMENT,
        boot      TEXT NOT NULL,
        started_s REAL NOT NULL,
        is_ended  INTEGER NOT NULL DEFAULT 0
    ) STRICT;
    CREATE TABLE usage_records (
        number           INTEGER PRIMARY KEY,
        request_id       TEXT NOT NULL,
        started_s        REAL NOT NULL,
        tenant           TEXT NOT NULL,
        key              TEXT,
        user             TEXT,
        tags             TEXT NOT NULL,
        task             TEXT NOT NULL,
        asked_model      TEXT NOT NULL,
        route            TEXT NOT NULL,
        backend          TEXT NOT NULL,
        model            TEXT NOT NULL,
        num_attempts     INTEGER NOT NULL,
        outcome          TEXT NOT NULL,
        cache            TEXT NOT NULL,
        prompt_tokens    INTEGER NOT NULL,
        cached_tokens    INTEGER NOT NULL,
        written_tokens   INTEGER NOT NULL,
        completion_tokens INTEGER NOT NULL,
        reasoning_tokens INTEGER NOT NULL,
        cost_nanos       INTEGER NOT NULL,
        saved_nanos      INTEGER NOT NULL,
        is_estimated     INTEGER NOT NULL,
        queue_s          REAL NOT NULL,
        overhead_s       REAL NOT NULL,
        ttft_s           REAL,
        duration_s       REAL NOT NULL
    ) STRICT;
    CREATE INDEX usage_records_of_tenant ON usage_records (tenant, number);
    CREATE TABLE usage_days (
        day_s             INTEGER NOT NULL,
        tenant            TEXT NOT NULL,
        key               TEXT NOT NULL,
        user              TEXT NOT NULL,
        tags              TEXT NOT NULL,
        route             TEXT NOT NULL,
        model             TEXT NOT NULL,
        backend           TEXT NOT NULL,
        num_requests      INTEGER NOT NULL,
        num_failed        INTEGER NOT NULL,
        prompt_tokens     INTEGER NOT NULL,
        cached_tokens     INTEGER NOT NULL,
        completion_tokens INTEGER NOT NULL,
        cost_nanos        INTEGER NOT NULL,
        saved_nanos       INTEGER NOT NULL,
        PRIMARY KEY (day_s, tenant, key, user, tags, route, model, backend)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE budget_periods (
        subject      TEXT NOT NULL,
        window       TEXT NOT NULL,
        start_s      INTEGER NOT NULL,
        nanos        INTEGER NOT NULL,
        tokens       INTEGER NOT NULL,
        lease_nanos  INTEGER,
        lease_tokens INTEGER,
        PRIMARY KEY (subject, window, start_s)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE budgets (
        name    TEXT PRIMARY KEY,
        subject TEXT NOT NULL,
        window  TEXT NOT NULL,
        money   REAL,
        tokens  INTEGER
    ) STRICT;
    CREATE TABLE limits (
        name                TEXT PRIMARY KEY,
        subject             TEXT NOT NULL,
        requests_per_minute INTEGER,
        tokens_per_minute   INTEGER,
        concurrency         INTEGER
    ) STRICT
    """,
    # What was said under a label stays under it: words with spaces between them.
    """
    ALTER TABLE items ADD COLUMN labels TEXT NOT NULL DEFAULT '';
    ALTER TABLE caches ADD COLUMN labels TEXT NOT NULL DEFAULT ''
    """,
    # What an item is worth that a model wrote: the label of all that it had read (`memory/item_flows.py`).
    "ALTER TABLE items ADD COLUMN flow TEXT NOT NULL DEFAULT ''",
    # Without an outcome: it goes on, or its process is gone.
    """
    CREATE TABLE actions (
        number      INTEGER PRIMARY KEY AUTOINCREMENT,
        id          TEXT NOT NULL UNIQUE,
        begun_s     REAL NOT NULL,
        tenant      TEXT NOT NULL,
        key         TEXT,
        subject     TEXT NOT NULL,
        through     TEXT NOT NULL,
        name        TEXT NOT NULL,
        target      TEXT NOT NULL,
        asked       TEXT NOT NULL,
        request_id  TEXT NOT NULL,
        outcome     TEXT,
        code        TEXT,
        ended_s     REAL,
        begun_index INTEGER,
        ended_index INTEGER,
        is_erased   INTEGER NOT NULL DEFAULT 0,
        nonce       BLOB NOT NULL
    ) STRICT;
    CREATE INDEX actions_by_time ON actions (begun_s);
    CREATE INDEX actions_unlogged ON actions (number) WHERE begun_index IS NULL OR ended_index IS NULL
    """,
    # Sign-ins and sign-outs, which change nothing, are counted by themselves, and the log does not commit to them.
    """
    ALTER TABLE actions ADD COLUMN is_visit INTEGER NOT NULL DEFAULT 0;
    CREATE INDEX actions_by_kind ON actions (is_visit, number);
    DROP INDEX actions_unlogged;
    CREATE INDEX actions_unlogged ON actions (number)
        WHERE is_visit = 0 AND (begun_index IS NULL OR ended_index IS NULL)
    """,
)
