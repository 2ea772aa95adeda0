"""SVIDs from a SPIFFE Workload API socket, ours or SPIRE's: fetched in the background, kept until they end.

    FetchX509SVID stream  -> certificate, key, bundles of certificates     each message replaces all before it
    FetchJWTBundles stream -> bundles of tokens
    FetchJWTSVID           -> a token for each audience that was asked for, anew when half of its time is over

A stream that ends is opened again after a pause that grows; what was fetched stays in force meanwhile, as long as it is
valid. Messages that are broken are refused whole. Imports gRPC: whoever has no socket must not import this.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from random import Random
from typing import Any, Final

import grpc
import grpc.aio
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_der_private_key
from spiffe._proto import workload_pb2, workload_pb2_grpc

from headrace.core.clock import Clock
from headrace.core.errors import Unavailable
from headrace.core.workload import JwtSvid, X509Svid
from headrace.gateway.workloads.source import MAX_AUDIENCES, Material, is_half_over
from headrace.trust.spiffe.bundle import Bundle, parse_jwt_authorities, parse_x509_authorities
from headrace.trust.spiffe.ids import InvalidSvid, parse_id, parse_trust_domain
from headrace.trust.spiffe.x509_svid import End, verify_x509_svid
from headrace.trust.strict import NotStrict, decode_base64url, read_json_object

MAX_PAUSE_S: Final = 30.0
FIRST_WAIT_S: Final = 10.0
"""How long a start waits for the first certificate."""
_CALL_S: Final = 10.0
_HEADER: Final = (("workload.spiffe.io", "true"),)
_OPTIONS: Final = (("grpc.max_receive_message_length", 8 * 2**20), ("grpc.enable_retries", 0))

_logger = logging.getLogger("headrace.gateway")

Sleep = Callable[[float], Awaitable[None]]


class ApiSource:
    """A `Source`; `open` fetches until it is left."""

    def __init__(
        self,
        address: str,
        clock: Clock,
        *,
        spiffe_id: str | None = None,
        random: Random,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        """`address` as `unix:///path`. `spiffe_id` None: the first of those that are given (the default identity)."""
        self._address = address
        self._clock = clock
        self._id = spiffe_id
        self._random = random
        self._sleep = sleep
        self._svid: X509Svid | None = None
        self._x509_bundles: dict[str, Bundle] = {}
        self._jwt_bundles: dict[str, Bundle] = {}
        self._bundles: dict[str, Bundle] = {}
        self._material: Material | None = None
        self._tokens: dict[str, JwtSvid] = {}
        self._wanted: dict[str, asyncio.Task[None]] = {}
        self._has_svid = asyncio.Event()
        self._has_keys = asyncio.Event()
        self._why = "it has not answered yet"
        self._stub: Any = None

    @asynccontextmanager
    async def open(self, *, wait_s: float = FIRST_WAIT_S) -> AsyncIterator[None]:
        """Fetch for as long as the block runs. Waits for the first certificate and the first keys. Raises Unavailable
        if none come in time."""
        async with grpc.aio.insecure_channel(self._address, options=_OPTIONS) as channel:
            make_stub: Any = workload_pb2_grpc.SpiffeWorkloadAPIStub  # has no types
            self._stub = make_stub(channel)
            loop = asyncio.get_running_loop()
            tasks = [loop.create_task(self._follow(one)) for one in (self._follow_x509, self._follow_keys)]
            try:
                try:
                    async with asyncio.timeout(wait_s):
                        await self._has_svid.wait()
                        await self._has_keys.wait()
                except TimeoutError:
                    raise Unavailable(
                        f"spiffe.socket: {self._address} gave no identity in {wait_s:g} s ({self._why}); check that it "
                        "runs, and that it has an entry for this program."
                    ) from None
                yield
            finally:
                for task in (*tasks, *self._wanted.values()):
                    task.cancel()
                await asyncio.gather(*tasks, *self._wanted.values(), return_exceptions=True)

    def material(self) -> Material:
        """See `Source`."""
        known = self._material
        if known is None or self._clock.unix_s() >= known.svid.expires_s:
            raise Unavailable(f"this server has no X.509-SVID that is valid ({self._why}).", retry_after_s=1.0)
        return known

    def bundles(self) -> Mapping[str, Bundle]:
        """See `Source`."""
        return self._bundles

    def token(self, audience: str) -> str:
        """See `Source`. The first call for an audience only orders one, unless `want` did."""
        known, now_s = self._tokens.get(audience), self._clock.unix_s()
        if known is None or is_half_over(known, now_s):
            self._order(audience)
        if known is None or now_s >= known.expires_s:
            raise Unavailable(f"this server has no JWT-SVID for this backend yet ({self._why}).", retry_after_s=1.0)
        return known.token

    async def want(self, audience: str) -> None:
        """Fetch the first token for an audience. Raises Unavailable."""
        await self._order(audience)
        self.token(audience)

    def _order(self, audience: str) -> "asyncio.Task[None]":
        task = self._wanted.get(audience)
        if task is None:
            task = self._wanted[audience] = asyncio.get_running_loop().create_task(self._fetch_token(audience))
            task.add_done_callback(lambda _: self._wanted.pop(audience, None))
        return task

    async def _fetch_token(self, audience: str) -> None:
        request = workload_pb2.JWTSVIDRequest(audience=[audience], spiffe_id=self._id or "")
        try:
            answer = await self._stub.FetchJWTSVID(request, metadata=_HEADER, timeout=_CALL_S)
            svid = _read_token(answer, self._clock.unix_s())
        except grpc.aio.AioRpcError as error:
            self._note(f"{error.code().name}: {error.details()}")
        except InvalidSvid as error:
            self._note(str(error))
        else:
            if len(self._tokens) >= MAX_AUDIENCES:
                self._tokens.clear()
            self._tokens[audience] = svid

    async def _follow(self, once: Callable[[], Awaitable[None]]) -> None:
        """Read a stream, and open it again whenever it ends."""
        pause_s = 0.1
        while True:
            before = (self._svid, self._jwt_bundles)
            try:
                await once()
            except grpc.aio.AioRpcError as error:
                self._note(f"{error.code().name}: {error.details()}")
            except InvalidSvid as error:
                self._note(str(error))
            pause_s = 0.1 if (self._svid, self._jwt_bundles) != before else min(2 * pause_s, MAX_PAUSE_S)
            await self._sleep(pause_s * self._random.uniform(0.5, 1.0))

    async def _follow_x509(self) -> None:
        stream = self._stub.FetchX509SVID(workload_pb2.X509SVIDRequest(), metadata=_HEADER)
        try:
            async for answer in stream:
                self._take_x509(answer)
        finally:
            stream.cancel()

    async def _follow_keys(self) -> None:
        stream = self._stub.FetchJWTBundles(workload_pb2.JWTBundlesRequest(), metadata=_HEADER)
        try:
            async for answer in stream:
                self._jwt_bundles = {
                    name: Bundle(trust_domain=name, jwt_authorities=parse_jwt_authorities(keys))
                    for name, keys in ((_domain_of(one), text) for one, text in answer.bundles.items())
                }
                self._join()
                self._has_keys.set()
        finally:
            stream.cancel()

    def _take_x509(self, answer: Any) -> None:
        """Every message is all of it (4.4): what is not in it any more is taken back. Raises InvalidSvid."""
        chosen = next((one for one in answer.svids if self._id is None or one.spiffe_id == self._id), None)
        if chosen is None:
            given = ", ".join(one.spiffe_id for one in answer.svids)
            raise InvalidSvid(f"it gives the names {given}, and not {self._id}")
        own = parse_id(chosen.spiffe_id).trust_domain
        bundles = {own: _x509_bundle(own, chosen.bundle)}
        for name, text in answer.federated_bundles.items():
            domain = _domain_of(name)
            bundles.setdefault(domain, _x509_bundle(domain, text))
        chain, now_s = parse_x509_authorities(chosen.x509_svid), self._clock.unix_s()
        # What we show must be what others will take; SPIRE is held to the standard like everybody.
        found = verify_x509_svid(chain, bundles, now_s=now_s, end=End.SERVER)
        if str(found.spiffe_id) != chosen.spiffe_id:
            raise InvalidSvid(f"it says {chosen.spiffe_id} of a certificate of {found.spiffe_id}")
        _check_key(chain[0], chosen.x509_svid_key)
        self._svid = X509Svid(
            spiffe_id=chosen.spiffe_id,
            certificates=chain,
            private_key=chosen.x509_svid_key,
            issued_s=now_s,
            expires_s=found.expires_s,
        )
        self._x509_bundles = bundles
        self._why = "it has expired"
        self._join()
        self._has_svid.set()

    def _join(self) -> None:
        joined = dict(self._x509_bundles)
        for name, keys in self._jwt_bundles.items():
            mine = joined.get(name, Bundle(trust_domain=name))
            joined[name] = replace(mine, jwt_authorities=keys.jwt_authorities)
        self._bundles = joined
        if self._svid is not None:
            self._material = Material(self._svid, joined)

    def _note(self, why: str) -> None:
        if why != self._why:
            self._why = why
            _logger.warning("the workload API at %s: %s", self._address, why)


def _check_key(leaf: bytes, private_key: bytes) -> None:
    """That the key is the certificate's: TLS would find out on a connection. Raises InvalidSvid."""
    try:
        key = load_der_private_key(private_key, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise InvalidSvid("it gave a private key that cannot be read") from None
    if x509.load_der_x509_certificate(leaf).public_key() != key.public_key():
        raise InvalidSvid("it gave the private key of another certificate")


def _x509_bundle(trust_domain: str, text: bytes) -> Bundle:
    return Bundle(trust_domain=trust_domain, x509_authorities=parse_x509_authorities(text))


def _domain_of(name: str) -> str:
    """Bundles are keyed by the SPIFFE ID of their trust domain; some servers leave the scheme out."""
    return parse_trust_domain(name.removeprefix("spiffe://"))


def _read_token(answer: Any, now_s: float) -> JwtSvid:
    if not answer.svids or not answer.svids[0].svid:
        raise InvalidSvid("it gave no JWT-SVID")
    svid = answer.svids[0]
    expires_s: Any = None
    with contextlib.suppress(NotStrict, IndexError):
        expires_s = read_json_object(decode_base64url(svid.svid.split(".")[1])).get("exp")
    if not svid.svid.isascii() or not isinstance(expires_s, int | float) or expires_s <= now_s:
        raise InvalidSvid("it gave a JWT-SVID that cannot be read, or has expired")
    return JwtSvid(spiffe_id=svid.spiffe_id, token=svid.svid, issued_s=now_s, expires_s=float(expires_s))
