"""Which URLs a backend may have."""

import pytest

from headrace.gateway.upstreams.address import Address, check_machine, check_path, read_url


@pytest.mark.parametrize(
    ("url", "address", "authority"),
    [
        ("https://api.openai.com/v1", Address(True, "api.openai.com", 443, "/v1"), "api.openai.com"),
        ("https://api.openai.com/v1/", Address(True, "api.openai.com", 443, "/v1"), "api.openai.com"),
        ("http://127.0.0.1:8000", Address(False, "127.0.0.1", 8000), "127.0.0.1:8000"),
        ("http://[::1]:8080/a/b", Address(False, "::1", 8080, "/a/b"), "[::1]:8080"),
        ("HTTP://Host:80", Address(False, "host", 80), "host"),
        ("http://10.1.2.3", Address(False, "10.1.2.3", 80), "10.1.2.3"),
        ("https://gpu-7.internal:8443/x%20y", Address(True, "gpu-7.internal", 8443, "/x%20y"), "gpu-7.internal:8443"),
    ],
)
def test_a_url_is_read_into_its_parts(url: str, address: Address, authority: str) -> None:
    assert read_url(url) == address
    assert address.authority == authority
    assert read_url(str(address)) == address


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "no scheme"),
        ("api.openai.com/v1", "no scheme"),
        ("ftp://host/", "use http:// or https://"),
        ("file:///etc/passwd", "use http:// or https://"),
        ("unix:///run/x.sock", "use http:// or https://"),
        ("http://", "names no host"),
        ("http:///v1", "names no host"),
        ("http://user:pw@host/", "user or password"),
        ("http://sk-secret@host/", "user or password"),
        ("http://host/v1?key=1", "query or fragment"),
        ("http://host/v1?", "query or fragment"),
        ("http://host/v1#x", "query or fragment"),
        ("http://host:0/", "port 0"),
        ("http://host:99999/", "is no URL"),
        ("http://host:port/", "is no URL"),
        ("http://[::1/", "is no URL"),
        ("http://ho st/", "names no host"),
        ("http://host\\@evil/", "user or password"),
        ("http://host/a b", "escaped"),
        ("http://host/a\r\nx: y", "."),
        ("http://ho\tst/", "control characters"),
        ("http://host/v1/../admin", "climbs"),
        ("http://host/v1/%2E%2e/admin", "climbs"),
        ("http://hôst/", "ASCII"),
        ("http://169.254.169.254/latest", "metadata"),
        ("http://169.254.1.1/", "link-local"),
        ("http://[fe80::1]/", "link-local"),
        ("http://[fd00:ec2::254]/", "metadata"),
        ("http://[::ffff:169.254.169.254]/", "metadata"),
        ("http://[64:ff9b::a9fe:a9fe]/", "metadata"),
        ("http://[2002:a9fe:a9fe::]/", "metadata"),
        ("http://100.100.100.200/", "metadata"),
        ("http://0.0.0.0:8000/", "names no machine"),
        ("http://[::]:8000/", "names no machine"),
        ("http://239.1.1.1/", "multicast"),
        ("http://255.255.255.255/", "broadcast"),
    ],
)
def test_a_url_that_no_backend_may_have_is_refused_with_the_remedy(url: str, says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        read_url(url)
    assert "pw" not in str(caught.value)
    assert "sk-secret" not in str(caught.value)


def test_machines_of_ones_own_network_may_be_backends() -> None:
    for host in ("127.0.0.1", "::1", "10.0.0.1", "192.168.1.1", "fd12:3456::1", "8.8.8.8", "some.name"):
        check_machine(host)


@pytest.mark.parametrize("path", ["/v1/..", "/./v1", "v1", "/a?b", "/a#b", "/a b", "/ä", "/a\\b", "/%2e%2e/x"])
def test_a_path_that_could_be_read_in_two_ways_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="path"):
        check_path(path)


@pytest.mark.parametrize("path", ["", "/", "/v1/models/gemini-2.5-pro:generateContent", "/a..b", "/...", "/a%2Fb"])
def test_an_ordinary_path_passes(path: str) -> None:
    check_path(path)
