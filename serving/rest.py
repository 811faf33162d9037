"""The REST API, as an ASGI application."""

import asyncio
import contextlib
import json
import logging
import re
import zlib
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any
from urllib.parse import unquote_to_bytes

from google.protobuf import json_format
from grpc import StatusCode
from tensorflow_serving.apis import get_model_metadata_pb2
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serving import codec, json_text
from serving.inference import (
    CLASSIFY,
    REGRESS,
    Inference,
    signature_of,
    too_many_bytes,
    use,
)
from serving.models import Version
from serving.status import HTTP_STATUS, ServingError, invalid

log = logging.getLogger("serving")

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_VERSION = r"(?:(?:/versions/(?P<number>[0-9]+))|(?:/labels/(?P<label>[^/:]+)))?"
_POST = re.compile(
    rf"/v1/models/(?P<name>[^/:]+){_VERSION}:(?P<verb>classify|regress|predict)",
    re.IGNORECASE,
)
_GET = re.compile(
    rf"/v1/models(?:/(?P<name>[^/:]+))?{_VERSION}(?:/(?P<metadata>metadata))?",
    re.IGNORECASE,
)
_NOT_FOUND = (
    b"<HTML><HEAD>\n<TITLE>404 Not Found</TITLE>\n</HEAD><BODY>\n"
    b"<H1>Not Found</H1>\n</BODY></HTML>\n"
)
_JSON = b"application/json"
_METHODS = {"classify": ("Classify", CLASSIFY), "regress": ("Regress", REGRESS)}
MAX_HEADER_BYTES = 64 << 10
# How long a client may take to send the head of a request, in seconds.
HEADER_SECONDS = 30.0
# How long a client may leave an answer unread, in seconds.
WRITE_SECONDS = 60.0
# How much of an oversized body is read and dropped, as a multiple of the limit. Clients
# that send before they read get the answer.
_DROPPED_LIMITS = 4


class Protocol(HttpToolsProtocol):
    """HTTP, with bounds on a request's head and on the time to read an answer."""

    _write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Begins to wait for the first request."""
        super().connection_made(transport)
        self._begin_head()

    def data_received(self, data: bytes) -> None:
        """Reads, unless the head is too large."""
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._in_head and self._head_bytes > MAX_HEADER_BYTES:
            self.send_400_response("The head of the request is too large.")

    def on_message_begin(self) -> None:
        """Begins a request."""
        super().on_message_begin()
        if not self._in_head:
            self._begin_head()

    def on_headers_complete(self) -> None:
        """Ends the head of a request."""
        self._end_head()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends the connection."""
        self._end_head()
        self._end_wait()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Begins to wait for a client that does not read."""
        super().pause_writing()
        self._end_wait()
        self._write_timer = self.loop.call_later(WRITE_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """Ends the wait."""
        self._end_wait()
        super().resume_writing()

    def _end_wait(self) -> None:
        if self._write_timer:
            self._write_timer.cancel()

    def _begin_head(self) -> None:
        self._in_head = True
        self._head_bytes = 0
        self._head_timer = self.loop.call_later(HEADER_SECONDS, self.transport.close)

    def _end_head(self) -> None:
        self._in_head = False
        self._head_timer.cancel()


class Rest:
    """The REST API.

    Args:
        inference: The models and what runs them.
        metrics_path: Where the metrics are, None for nowhere.
    """

    def __init__(self, inference: Inference, metrics_path: str | None) -> None:
        self._inference = inference
        self._metrics_path = metrics_path

    async def __call__(
        self, scope: MutableMapping[str, Any], receive: Receive, send: Send
    ) -> None:
        """Answers one request."""
        method: str = scope["method"]
        path = _path(scope)
        kind = _JSON
        headers: list[tuple[bytes, bytes]] = []
        body = b""
        try:
            if path == self._metrics_path:
                status, kind, answer = (
                    200,
                    b"text/plain",
                    self._inference.metrics.page(),
                )
            elif not path.lower().startswith("/v1/"):
                status, kind, answer = 404, b"text/html", _NOT_FOUND
            elif method == "OPTIONS":
                answer = _preflight(scope["headers"])
                status = 200
            else:
                if method not in ("GET", "HEAD"):
                    async with asyncio.timeout(self._inference.limits.timeout_seconds):
                        body = await self._read(receive)
                    if _is_compressed(scope["headers"]):
                        body = await self._decode(body)
                answer = await self._answer(method, path, body)
                status = 200
        except ConnectionError:
            return
        except TimeoutError:
            status = 408
            answer = json_text.error_body("The request took too long to arrive")
            headers = [(b"connection", b"close")]
        except _TooLarge as error:
            status, answer = 413, json_text.error_body(str(error))
            headers = [(b"connection", b"close")]
        except ServingError as error:
            status, answer = (
                HTTP_STATUS[error.code],
                json_text.error_body(error.message),
            )
            if method == "OPTIONS":
                answer = b""
        except Exception:
            log.exception("Cannot answer %s %s", method, path)
            status, answer = 500, json_text.error_body("Internal error")
        finally:
            self._inference.add_bytes(-len(body))
            body = b""
        headers += [
            (b"content-type", kind),
            (b"content-length", str(0 if method == "HEAD" else len(answer)).encode()),
        ]
        await send(
            {"type": "http.response.start", "status": status, "headers": headers}
        )
        await send({"type": "http.response.body", "body": answer})

    async def _read(self, receive: Receive) -> bytes:
        """Returns the body of a request, whose bytes are counted.

        Raises:
            ServingError: The bodies of all requests together are too large.
            _TooLarge: This one is.
        """
        inference = self._inference
        limit = inference.limits.max_body_bytes
        chunks: list[bytes] = []
        size = 0
        kept = 0
        is_refused = False
        try:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ConnectionResetError
                chunk = message.get("body", b"")
                size += len(chunk)
                if size <= limit and not is_refused:
                    is_refused = not inference.add_bytes(len(chunk))
                if size > limit or is_refused:
                    chunks.clear()
                    inference.add_bytes(-kept)
                    kept = 0
                elif chunk:
                    chunks.append(chunk)
                    kept += len(chunk)
                if not message.get("more_body") or size > _DROPPED_LIMITS * limit:
                    break
        except BaseException:
            inference.add_bytes(-kept)
            raise
        if size > limit:
            raise _TooLarge(f"The body is larger than {limit} bytes")
        if is_refused:
            raise too_many_bytes()
        return b"".join(chunks)

    async def _decode(self, body: bytes) -> bytes:
        """Returns the body without its compression; one that is damaged is empty."""
        inference = self._inference
        limit = inference.limits.max_body_bytes
        text = await inference.convert(len(body), _unzip, body, limit)
        if not inference.add_bytes(len(text) - len(body)):
            raise too_many_bytes()
        return text

    async def _answer(self, method: str, path: str, body: bytes) -> bytes:
        """Returns the JSON of an answer.

        Raises:
            ServingError: Whatever is wrong.
        """
        pattern = {"POST": _POST, "GET": _GET}.get(method)
        found = pattern.fullmatch(path) if pattern else None
        if not found:
            raise invalid(f"Malformed request: {method} {path}")
        name = _unquote(found["name"] or "")
        number = int(found["number"]) if found["number"] else None
        if number is not None and number >= 2**63:
            raise invalid(f"Failed to convert version: {number} to numeric.")
        label = _unquote(found["label"]) if found["label"] else None
        if method == "GET":
            if not name:
                raise invalid("Missing model name in request.")
            if found["metadata"]:
                return self._metadata(name, number, label)
            return self._status(name, number)
        verb = found["verb"]
        if verb == "predict":
            return await self._predict(name, number, label, body)
        if verb in _METHODS:
            return await self._classify_or_regress(verb, name, number, label, body)
        raise invalid(f"Malformed request: {method} {path}")

    def _status(self, name: str, number: int | None) -> bytes:
        versions = self._inference.models.statuses(name, number)
        statuses = {"model_version_status": list(map(_version_status, versions))}
        return (json.dumps(statuses, indent=1) + "\n").encode()

    def _metadata(self, name: str, number: int | None, label: str | None) -> bytes:
        with use(self._inference.models, name, number, label) as version:
            assert version.saved_model is not None
            signatures = get_model_metadata_pb2.SignatureDefMap(
                signature_def=version.saved_model.signatures
            )
            number = version.number
        text = json_format.MessageToJson(
            signatures,
            preserving_proto_field_name=True,
            always_print_fields_with_no_presence=True,
            indent=1,
            sort_keys=True,
            ensure_ascii=False,
        )
        spec = {"name": name, "version": str(number), "signature_name": ""}
        return (
            f'{{\n"model_spec":{json.dumps(spec, indent=1)}\n,\n'
            f'"metadata": {{"signature_def": {text}\n}}\n}}\n'
        ).encode()

    async def _predict(
        self, name: str, number: int | None, label: str | None, body: bytes
    ) -> bytes:
        inference = self._inference
        async with inference.request("Predict", "REST") as model_name:
            model_name.append(name)
            with contextlib.ExitStack() as stack:
                async with inference.turn(len(body)):
                    request, signature_name = await inference.convert(
                        len(body), _parse, body
                    )
                    version = stack.enter_context(
                        use(inference.models, name, number, label)
                    )
                    saved_model = version.saved_model
                    assert saved_model is not None
                    signature_name = signature_of(
                        saved_model.signatures,
                        signature_name,
                        'Serving signature name: "{}" not found in signature def',
                    )
                    arrays, write = await inference.convert(
                        len(body),
                        _read_inputs,
                        request,
                        saved_model.input_types(signature_name),
                        signature_name,
                    )
                    del request
                outputs = await inference.run(
                    version,
                    signature_name,
                    [arrays[key] for key in sorted(arrays)],
                    sorted(saved_model.signatures[signature_name].outputs),
                )
            size = sum(array.nbytes for array in outputs.values())
            return await inference.convert(size, _encode, write, outputs)

    async def _classify_or_regress(
        self, verb: str, name: str, number: int | None, label: str | None, body: bytes
    ) -> bytes:
        inference = self._inference
        api, method = _METHODS[verb]
        async with inference.request(api, "REST") as model_name:
            model_name.append(name)
            async with inference.turn(len(body)):
                request, signature_name = await inference.convert(
                    len(body), _parse, body
                )
                examples = await inference.convert(
                    len(body), codec.read_examples, request
                )
                del request
            with use(inference.models, name, number, label) as version:
                assert version.saved_model is not None
                signature_name = signature_of(
                    version.saved_model.signatures,
                    signature_name,
                    "No signature was found with the name: {}",
                )
                (results,) = await inference.run_examples(
                    version, [(signature_name, method)], examples, api
                )
            return _encode(codec.write_results, results)


class _TooLarge(Exception):
    pass


def _path(scope: MutableMapping[str, Any]) -> str:
    """Returns path and query as they were sent."""
    path: bytes = scope["raw_path"]
    if scope["query_string"]:
        path += b"?" + scope["query_string"]
    return path.decode("utf-8", "surrogateescape")


def _unquote(text: str) -> str:
    return unquote_to_bytes(text.encode("utf-8", "surrogateescape")).decode(
        "utf-8", "surrogateescape"
    )


def _preflight(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    origins = [value for name, value in headers if name == b"origin"]
    if not any(re.search(rb"https?://", origin) for origin in origins):
        raise ServingError(
            StatusCode.FAILED_PRECONDITION,
            "Origin header is missing in CORS preflight",
        )
    return b""


def _unzip(body: bytes, limit: int) -> bytes:
    unzip = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        text = unzip.decompress(body, limit + 1)
    except zlib.error:
        return b""
    if len(text) > limit:
        raise _TooLarge(f"The body is larger than {limit} bytes")
    return text if unzip.eof else b""


def _is_compressed(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    return any(
        name == b"content-encoding" and b"gzip" in value for name, value in headers
    )


def _parse(body: bytes) -> tuple[dict[str, Any], str]:
    """Returns a request, which must be an object, and the signature that it names."""
    request = json_text.parse(body)
    if not isinstance(request, dict):
        raise invalid(f"JSON Value: {json_text.pretty(request)} Is not object")
    name = request.get("signature_name", "")
    if not isinstance(name, str):
        raise invalid(
            f"JSON Value: {json_text.pretty(request)} not formatted correctly. "
            "'signature_name' key must be a string value."
        )
    return request, name


def _read_inputs(
    request: dict[str, Any], types: dict[str, Any], signature_name: str
) -> tuple[codec.Arrays, Callable[[codec.Arrays], str]]:
    """Returns the arrays of a request, and what writes its answer."""
    if not types:
        raise invalid(f"Failed to get input map for signature: {signature_name}")
    if "instances" in request and "inputs" in request:
        why = (
            "Not formatted correctly expecting only one of 'inputs' or 'instances' "
            "keys to exist "
        )
    elif "inputs" in request:
        return codec.read_columns(request["inputs"], types), codec.write_columns
    elif "instances" not in request:
        raise invalid("Missing 'inputs' or 'instances' key")
    elif not isinstance(request["instances"], list):
        why = "Expecting 'instances' to be an list/array"
    elif not request["instances"]:
        why = "No values in 'instances' array"
    else:
        return codec.read_rows(request["instances"], types), codec.write_rows
    raise invalid(f"JSON Value: {json_text.pretty(request)} {why}")


def _encode(write: Callable[[Any], str], outputs: Any) -> bytes:
    return write(outputs).encode("utf-8", "surrogateescape")


def _version_status(version: Version) -> dict[str, Any]:
    error = version.error
    return {
        "version": str(version.number),
        "state": version.state,
        "status": {
            "error_code": error.code.name if error else "OK",
            "error_message": error.message if error else "",
        },
    }
