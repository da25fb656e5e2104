"""Which endpoint a picture's calls go to: always the same one, and another only while that is away.

    for endpoint in endpoints.order(image_id):    # the picture's own order; those that are away come last
        ...                                       # ask it
        endpoints.away(endpoint)                  # or endpoints.failed(endpoint), endpoints.there(endpoint)

Rendezvous hashing: the order depends on addresses and picture alone, so that all processes agree, and a lost or added
endpoint moves its own pictures only. One that is away, or failed :data:`FAILURES` times in a row, is set aside for some
seconds; then a single call tries whether it is back, and the others keep away until that is known.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

logger = logging.getLogger(__name__)
ASIDE_SECONDS = 5.0
FAILURES = 3


@dataclass(slots=True)
class Endpoint:
    """One address, without a slash at its end."""

    url: str
    aside: float = 0.0
    """Others go first until then (of the clock); 0 while it works."""
    failures: int = 0
    """In a row."""

    def rank(self, route: str) -> bytes:
        """Its place in the order of a picture."""
        return hashlib.blake2b(f"{self.url}\0{route}".encode(errors="replace"), digest_size=8).digest()


class Endpoints:
    """See the module's text; ``clock`` is monotonic."""

    def __init__(self, urls: Iterable[str], clock: Callable[[], float]) -> None:
        """Raises ``ValueError`` for an address that is none."""
        self._all = [Endpoint(url) for url in dict.fromkeys(map(address, urls))]
        self._clock = clock

    def __iter__(self) -> Iterator[Endpoint]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)

    def order(self, route: str) -> list[Endpoint]:
        """All, best first. Whoever gets one that was set aside as the first is the one who tries it."""
        now = self._clock()
        order = sorted(self._all, key=lambda endpoint: (endpoint.aside > now, endpoint.rank(route)))
        if order[0].aside:
            order[0].aside = now + ASIDE_SECONDS
        return order

    def away(self, endpoint: Endpoint) -> None:
        """It could not be connected to."""
        if not endpoint.aside:
            logger.warning("%s does not answer; its calls go elsewhere until it is back", endpoint.url)
        endpoint.aside = self._clock() + ASIDE_SECONDS

    def failed(self, endpoint: Endpoint) -> None:
        """It took the call and did not answer it; once may be chance, or a connection from before."""
        endpoint.failures += 1
        if endpoint.failures >= FAILURES:
            self.away(endpoint)

    def there(self, endpoint: Endpoint) -> None:
        """It replied."""
        if endpoint.aside:
            logger.warning("%s is back", endpoint.url)
        endpoint.aside, endpoint.failures = 0.0, 0


def address(url: str) -> str:
    """The address without a slash at its end; raises ``ValueError`` for one that is none or that holds a secret."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc or parts.query:
        raise ValueError("runtime.serving: an address is http(s)://HOST[:PORT]/v1, with no name, key or query in it")
    return url.rstrip("/")
