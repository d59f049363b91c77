"""One GET request, with care: https only, time-outs, ranges, and two kinds of failure (try again, give up)."""

import http.client
import re
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO
from urllib.parse import urlsplit

TIMEOUT_S = 30.0
"""Seconds to wait for a connection, and for each piece of the answer."""
_CHUNK = 1 << 18
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


class Interrupted(Exception):  # noqa: N818 - not an error yet: the next attempt may go through
    """The network or the server failed in a way that may pass."""


class Changed(Interrupted):
    """What the server has is no longer the file that the partial download is part of."""


class Refused(Exception):  # noqa: N818
    """What came, or would come, is not what was asked for; another attempt would not help."""


@dataclass(frozen=True)
class Answer:
    """The rest of a file, from byte `start` on."""

    start: int
    total: int | None
    """Bytes of the whole file; None if the server does not say."""
    edition: str
    """A strong ETag, else the date of last change, else empty: what `If-Range` takes."""
    body: http.client.HTTPResponse | None
    """None: nothing is left to send."""

    def chunks(self) -> Iterator[bytes]:
        """The bytes as they arrive.

        Raises:
            Interrupted: if the connection fails.
        """
        while self.body is not None:
            try:
                chunk = self.body.read1(_CHUNK)
            except (OSError, http.client.HTTPException) as error:
                raise Interrupted(f"{type(error).__name__}: {error}") from error
            if not chunk:
                return
            yield chunk


@contextmanager
def request(address: str, *, start: int, edition: str) -> Iterator[Answer]:
    """The file at `address` from byte `start` if it is still the same `edition`; from byte 0 otherwise.

    Raises:
        Changed: if what came is the rest of another edition.
        Interrupted: if there is no network, no answer in time, or the server is busy.
        Refused: if the address is not https (http is for this machine only), a redirect leaves https, the certificate
            is not valid, or the server says that there is no such file or sends a web page.
    """
    if not _is_safe(address):
        raise Refused("not an https address")
    headers = {"User-Agent": "rareshot", "Accept-Encoding": "identity"}
    if start:
        headers |= {"Range": f"bytes={start}-", "If-Range": edition}
    # A proxy of the environment is right for the publisher, never for this machine.
    proxies = [urllib.request.ProxyHandler({})] if urlsplit(address).hostname in _LOOPBACK else []
    opener = urllib.request.build_opener(_OnlySafeRedirects, *proxies)
    try:
        response = opener.open(urllib.request.Request(address, headers=headers), timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        with error:
            yield _answer_of_error(error, start)
        return
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise Refused(f"the server's certificate is not valid ({reason.verify_message})") from error
        raise Interrupted(f"{type(reason).__name__}: {reason}") from error
    with response:
        if response.headers.get_content_type() == "text/html":
            raise Refused("a web page came, not the file; does this network ask for a login?")
        yield _answer(response, start, edition)


def _answer(response: http.client.HTTPResponse, asked: int, known: str) -> Answer:
    headers = response.headers
    etag = headers.get("ETag", "")
    edition = etag if etag and not etag.startswith("W/") else headers.get("Last-Modified", "")
    length = headers.get("Content-Length", "")
    if response.status == http.HTTPStatus.OK:
        return Answer(0, int(length) if length.isdecimal() else None, edition, response)
    found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", headers.get("Content-Range", ""))
    if response.status != http.HTTPStatus.PARTIAL_CONTENT or not found:
        raise Refused(f"an answer of status {response.status} that makes no sense here")
    if int(found[1]) != asked or edition not in ("", known):
        raise Changed("the file changed at its publisher; starting over")
    return Answer(asked, int(found[3]), edition, response)


def _answer_of_error(error: urllib.error.HTTPError, asked: int) -> Answer:
    if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and asked:
        # Nothing after the last byte that is here: the file is whole, unless the server's has another length.
        if error.headers.get("Content-Range") != f"bytes */{asked}":
            raise Changed("the file changed at its publisher; starting over")
        return Answer(asked, asked, "", None)
    if error.code >= 500 or error.code in (http.HTTPStatus.REQUEST_TIMEOUT, http.HTTPStatus.TOO_MANY_REQUESTS):
        raise Interrupted(f"status {error.code} {error.reason}")
    raise Refused(f"the server says {error.code} {error.reason}; the file may have moved")


class _OnlySafeRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        """The redirected request; plain http only from this machine to this machine."""
        if not _is_safe(newurl) or (urlsplit(newurl).scheme == "http" and req.type != "http"):
            fp.close()
            raise Refused(f"redirected to {newurl}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _is_safe(address: str) -> bool:
    parts = urlsplit(address)
    return parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK)
