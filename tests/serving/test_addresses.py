"""A URL means one thing or is refused, and no spelling of this machine, or of a network around it, is public."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence

import pytest
from listener import Listener, code_of, listeners, says

from cocoa.serving.addresses import is_public, parse_address
from cocoa.serving.fetching import Fetcher, FetchSettings

listen = pytest.fixture(name="listen")(listeners)

NAMES = {
    "localhost": ["127.0.0.1"],
    "internal.example.org": ["10.0.0.7"],
    "metadata.google.internal": ["169.254.169.254"],
    "half.example.org": ["93.184.216.34", "127.0.0.1"],
    "six.example.org": ["::1"],
    "mapped.example.org": ["::ffff:127.0.0.1"],
    "translated.example.org": ["64:ff9b::7f00:1"],
    "nothing.example.org": [],
    "127.0.0.1.nip.io": ["127.0.0.1"],
}


def look_up(host: str, port: int) -> Sequence[str]:
    """Numbers are themselves, names are in the table: nothing outside is asked."""
    if ":" in host or host.replace(".", "").isdecimal():
        return [host]
    if host not in NAMES:
        raise socket.gaierror("no such name")
    return NAMES[host]


REFUSED = (
    "http://127.0.0.1:{port}/", "http://127.1:{port}/", "http://0:{port}/", "http://0.0.0.0:{port}/",
    "http://[::1]:{port}/", "http://[::]:{port}/", "http://[::ffff:127.0.0.1]:{port}/", "http://[::ffff:7f00:1]:{port}/",
    "http://[::127.0.0.1]:{port}/", "http://2130706433:{port}/", "http://0x7f000001:{port}/", "http://0x7f.0.0.1:{port}/",
    "http://017700000001:{port}/", "http://0177.0.0.1:{port}/", "http://127.0.0.1.:{port}/", "http://localhost:{port}/",
    "http://LOCALHOST:{port}/", "http://localhost.:{port}/", "http://169.254.169.254/latest/meta-data/",
    "http://metadata.google.internal/computeMetadata/v1/", "http://100.64.0.1/", "http://[fc00::1]/", "http://[fe80::1]/",
    "http://[fe80::1%25eth0]/", "http://10.0.0.1/", "http://172.16.0.1/", "http://192.168.0.1/", "http://168.63.129.16/",
    "http://[64:ff9b::7f00:1]:{port}/", "http://[2002:7f00:1::]:{port}/", "http://[2001:0:7f00:1::]:{port}/",
    "http://example.org\\@127.0.0.1:{port}/", "http://127.0.0.1:{port}\\@example.org/", "http://example.org#@127.0.0.1:{port}/",
    "http://user@127.0.0.1:{port}/", "http://user:password@example.org/", "http://example.org@127.0.0.1:{port}/",
    "http://127\u30020\u30020\u30021:{port}/", "http://\u2460\u2461\u2466.0.0.1:{port}/", "http://ex\xe4mple.org/",
    "http://internal.example.org/", "http://half.example.org:{port}/", "http://six.example.org:{port}/",
    "http://mapped.example.org:{port}/", "http://translated.example.org:{port}/", "http://nothing.example.org/",
    "http://unknown.example.org/", "http://127.0.0.1.nip.io:{port}/", "file:///etc/passwd", "ftp://127.0.0.1:{port}/",
    "gopher://127.0.0.1:{port}/_x", "data:image/png;base64,AAAA", "http+unix://%2Fvar%2Frun%2Fdocker.sock/",
    "http://localhost:{port}/\r\nX-Evil: 1", "http://localhost:{port}/ a", "http://example.org:22/", "http://example.org:0/",
    "http://example.org:99999/", "http://example.org:/", "//127.0.0.1:{port}/", "http:/127.0.0.1:{port}/",
    "http:127.0.0.1:{port}", "http://", "http:///", "", "\0http://localhost:{port}/", "http://[::1",
    "http://exa mple.org/", " http://localhost:{port}/", "http://%6c%6f%63%61%6c%68%6f%73%74:{port}/",
    "http://" + "a" * 3000, "jar:http://localhost:{port}/!/",
)  # fmt: skip


def test_no_odd_url_reaches_this_machine(listen: Callable[..., Listener]) -> None:
    assert len(REFUSED) >= 45
    listener = listen(says(b""))
    settings = FetchSettings(hosts=("*",), allow_http=True, ports=(80, 443, listener.port))
    fetches = Fetcher(settings, resolve=look_up)
    for url in REFUSED:
        assert code_of(lambda url=url: fetches.fetch(url.format(port=listener.port))) in (
            "E_IMAGE_URL",
            "E_IMAGE_FETCH",
        ), url
    assert listener.num_connections == 0


def test_which_addresses_are_public() -> None:
    for address in (
        "93.184.216.34",
        "8.8.8.8",
        "2606:2800:220:1::1",
        "64:ff9b::5db8:d822",
        "172.32.0.1",
        "100.128.0.1",
    ):
        assert is_public(address), address
    for address in (
        "127.0.0.1", "10.1.2.3", "100.127.255.255", "169.254.1.1", "172.31.255.255", "192.168.1.1", "224.0.0.1",
        "255.255.255.255", "0.0.0.0", "::", "::1", "::ffff:8.8.8.8", "::8.8.8.8", "fe80::1%eth0", "fc00::1",
        "fd00:ec2::254", "ff02::1", "2001:db8::1", "2002:808:808::", "2001:0:808:808::", "64:ff9b::a00:1",
        "64:ff9b:1::808:808", "100::1", "fec0::1", "5f00::1", "3fff::1", "localhost", "",
    ):  # fmt: skip
        assert not is_public(address), address


def test_a_url_means_one_thing() -> None:
    address = parse_address("HTTPS://Images.Example.org/a//b/../c?q=1#x")
    assert address is not None
    assert (str(address), address.authority) == ("https://images.example.org/a//b/../c?q=1", "images.example.org")
    odd = parse_address("http://[2606:2800:0220::0001]:8080?q")
    assert odd is not None
    assert (str(odd), odd.host) == ("http://[2606:2800:220::1]:8080/?q", "2606:2800:220::1")
