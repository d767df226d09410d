"""What a client is told when a request fails: OpenAI's shape, a stable code, and nothing of the inside."""

from __future__ import annotations

import logging
from http import HTTPStatus

from starlette.responses import JSONResponse, Response

from cocoa.errors import CocoaError
from cocoa.serving.logs import log


class RequestError(CocoaError):
    """A request that is not answered (`E_REQUEST_*`, `E_LIMIT_*`, `E_SERVER_*`); the message is written for the client.

    `where` is the field at fault, `status` the HTTP status, `retry_after` seconds where trying again makes sense,
    `allow` the methods that a path takes where that is what was wrong.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        where: str = "",
        status: int = 422,
        retry_after: int | None = None,
        allow: str = "",
    ) -> None:
        super().__init__(code, message, where=where)
        self.status = status
        self.retry_after = retry_after
        self.allow = allow

    def at(self, where: str) -> RequestError:
        """Returns the same error, said of a more precise place."""
        return RequestError(self.code, self.message, where=where, status=self.status, retry_after=self.retry_after)


def busy(what: str) -> RequestError:
    """Returns the refusal of a request that there is no room for."""
    return RequestError("E_SERVER_BUSY", f"too many {what} are under way", status=429, retry_after=1)


def late() -> RequestError:
    """Returns what is said when a request's time is over."""
    return RequestError("E_SERVER_DEADLINE", "the answer did not come in time", status=503, retry_after=1)


def stopping() -> RequestError:
    """Returns what is said to whom a server that stops does not serve any more."""
    return RequestError("E_SERVER_STOPPING", "the server is stopping", status=503, retry_after=5)


# What is said of errors that come from inside: their own messages name files and libraries.
_SENTENCES = {
    "E_IMAGE_OPEN": "the picture cannot be read",
    "E_IMAGE_MISSING": "there is no such picture",
    "E_IMAGE_FORMAT": "the picture's format or colours are not supported; send JPEG, PNG, WebP, GIF, BMP or TIFF",
    "E_IMAGE_TRUNCATED": "the picture is cut short or damaged",
    "E_IMAGE_TOO_LARGE": "the picture has too many bytes or pixels",
    "E_IMAGE_RATIO": "the picture is too long for its width; crop it",
    "E_IMAGE_TIMEOUT": "the picture takes too long to fetch or decode",
    "E_IMAGE_DECODER": "the picture could not be decoded",
    "E_IMAGE_URL": "the URL of the picture is none that this server fetches",
    "E_IMAGE_FETCH": "the picture could not be fetched",
    "E_DATA_EMPTY": "there is neither text nor picture",
    "E_DATA_PLACEHOLDER": "the text names a picture that is not there, or one twice",
    "E_DATA_TOO_LONG": "the item has more tokens than the model reads",
}
_KINDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


def public(error: CocoaError) -> RequestError:
    """Returns what a client may know of an error."""
    if isinstance(error, RequestError):
        return error
    if error.code == "E_USAGE_FILTER":  # Said of what the client wrote, and of nothing else.
        return RequestError(error.code, error.message, where=error.where)
    if error.code == "E_INDEX_ID":
        return RequestError(error.code, "there is no such document", status=404)
    if error.code.startswith(("E_IMAGE_", "E_DATA_")):
        sentence = _SENTENCES.get(error.code, "the item cannot be used")
        return RequestError(error.code, sentence, where=error.where)
    return failed()


def failed() -> RequestError:
    """Returns what is said of a failure that is not the client's."""
    return RequestError("E_SERVER_FAILED", "the server failed; its log has more under this request's id", status=500)


def reply(error: RequestError, request_id: str) -> Response:
    """Returns the answer to a failed request, after the same text went to the log."""
    log.log(
        logging.ERROR if error.status >= 500 else logging.INFO,
        "request %s: %d %s %r %r",  # A client may put line ends into a field's name, but none into the log.
        request_id,
        error.status,
        error.code,
        error.where,
        error.message,
    )
    kind = _KINDS.get(error.status, "server_error" if error.status >= 500 else "invalid_request_error")
    told = {"message": error.message, "type": kind, "code": error.code, "param": error.where or None}
    body = {"error": told, "detail": error.message}  # Without the second Voyage's client does not see what it is.
    headers = {"x-request-id": request_id}
    if error.retry_after is not None:
        headers["retry-after"] = str(error.retry_after)
    if error.allow:
        headers["allow"] = error.allow
    answer = JSONResponse(body, error.status, headers)
    if error.status == HTTPStatus.UNAUTHORIZED:
        # One header each: Chromium does not ask for a password where both stand in one.
        answer.headers.append("www-authenticate", 'Basic realm="cocoa", charset="UTF-8"')
        answer.headers.append("www-authenticate", "Bearer")
    return answer
