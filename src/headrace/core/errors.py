"""Every error that may leave a `Backend`, as one drawn tree.

    HeadraceError
    |-- InvalidRequest        400  the caller's mistake; `param` names the field
    |   |-- UnsupportedField  400  a field of the protocol that Headrace does not support yet
    |   `-- ContextTooLong    400  prompt (+ max_tokens) can never fit the model's context or the page pool
    |-- Unauthenticated       401  no key, or a key nobody issued
    |-- Forbidden             403  a valid key without the scope
    |   `-- NotCleared        403  no backend may see a request with these labels
    |-- NotFound              404  no such route, model or object
    |-- MethodNotAllowed      405  the route exists and wants another method
    |-- Conflict              409  what was asked for cannot be while something else goes on
    |-- PayloadTooLarge       413
    |-- RateLimited           429  retryable, after `retry_after_s`
    |   |-- QuotaFull         429  what the caller may keep is used up; only deleting helps
    |   `-- BudgetExceeded    429  what the caller may spend is used up, or would be by this request
    |-- DeadlineExceeded      408  the request's own time limit passed; retryable
    |-- Overloaded            503  queue full; retryable
    |-- Unavailable           503  starting, draining or stopped; retryable
    |   `-- DiskFull          507  there is no room for what was to be kept
    |-- UpstreamFault         502  a remote backend failed, or said what it must not
    |   |-- UpstreamDenied    502  a remote backend would not answer this request, to us or to anybody
    |   `-- UpstreamTimeout   504  a remote backend did not connect, begin or go on in time
    |-- EngineFault           500  our defect; retryable, because it fails one batch and not the engine
    `-- ModelFileError        500  a model file that cannot be read or trusted (start-up)

Each class carries `code` (stable, machine readable), `status` (HTTP) and `retryable`. Messages say what, which value,
and what to do. Only `api` turns these into a protocol's error shape.
"""


class HeadraceError(Exception):
    """Root of all errors that callers of a backend may see."""

    code = "internal_error"
    status = 500
    retryable = False
    quotes = False
    """Whether its words are somebody else's, who may repeat what was asked: they go to the caller and nowhere else."""

    def __init__(
        self, message: str, *, param: str | None = None, code: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s
        if code is not None:
            self.code = code


class InvalidRequest(HeadraceError):
    """The request itself is wrong; sending it again unchanged cannot help."""

    code = "invalid_value"
    status = 400


class UnsupportedField(InvalidRequest):
    """A field that the protocol knows and Headrace does not (yet): refused by name, never ignored."""

    code = "unsupported_parameter"


class ContextTooLong(InvalidRequest):
    """Prompt and answer can never fit the model's context length or the page pool."""

    code = "context_length_exceeded"


class Unauthenticated(HeadraceError):
    """No credentials, or credentials that nobody issued. `challenges` say what would do (RFC 9110, section 11.6.1;
    none: a bearer's key), `nonce` is one that a DPoP proof must have (RFC 9449, section 8)."""

    code = "invalid_api_key"
    status = 401

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        challenges: tuple[str, ...] = (),
        nonce: str | None = None,
    ) -> None:
        super().__init__(message, param=param, code=code)
        self.challenges = challenges
        self.nonce = nonce


class Forbidden(HeadraceError):
    """Credentials are valid but lack the scope."""

    code = "insufficient_scope"
    status = 403


class NotCleared(Forbidden):
    """The request carries labels, and no backend that could answer it is cleared for them."""

    code = "not_cleared"


class NotFound(HeadraceError):
    """No such route, model or object."""

    code = "not_found"
    status = 404


class MethodNotAllowed(HeadraceError):
    """The route exists, but not for this method."""

    code = "method_not_allowed"
    status = 405


class Conflict(HeadraceError):
    """What was asked for is not possible while something else goes on."""

    code = "conflict"
    status = 409
    retryable = True


class PayloadTooLarge(HeadraceError):
    """The body is larger than the configured limit."""

    code = "payload_too_large"
    status = 413


class RateLimited(HeadraceError):
    """A limit of the caller's own is reached."""

    code = "rate_limit_exceeded"
    status = 429
    retryable = True


class QuotaFull(RateLimited):
    """The caller keeps as much as is allowed; sending it again cannot help before something is deleted."""

    code = "storage_quota_exceeded"
    retryable = False


class BudgetExceeded(RateLimited):
    """The request could cost more than is left of a budget; sending it again cannot help before the budget's window
    ends or somebody raises it."""

    code = "budget_exceeded"
    retryable = False


class DeadlineExceeded(HeadraceError):
    """The request's time limit passed before it finished."""

    code = "deadline_exceeded"
    status = 408
    retryable = True


class Overloaded(HeadraceError):
    """The queue is full: refused at once rather than left to wait without an end."""

    code = "overloaded"
    status = 503
    retryable = True


class Unavailable(HeadraceError):
    """Starting, draining or stopped."""

    code = "unavailable"
    status = 503
    retryable = True


class DiskFull(Unavailable):
    """There is no room on the server's disk for what was to be kept; nothing of it was."""

    code = "disk_full"
    status = 507
    retryable = False


class UpstreamFault(HeadraceError):
    """A remote backend refused the connection, failed, or sent what is not its protocol."""

    code = "upstream_fault"
    status = 502
    retryable = True


class UpstreamDenied(UpstreamFault):
    """A remote backend would not answer: our credentials lack something, or it did not like what was said (403 means
    both). Another may; it says nothing of the health of this one."""


class UpstreamTimeout(UpstreamFault):
    """A remote backend did not connect, begin to answer or go on answering in time."""

    code = "upstream_timeout"
    status = 504


class EngineFault(HeadraceError):
    """A defect of ours met this request's batch; the engine itself goes on."""

    code = "engine_fault"
    status = 500
    retryable = True


class ModelFileError(HeadraceError):
    """A model file that is missing, truncated, corrupt, absurd or of an unsupported kind."""

    code = "model_file_error"
    status = 500
