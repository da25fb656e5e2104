"""What judges share: the count of what they could not say, by reason."""

from __future__ import annotations


class Counting:
    """Base of a judge; one that holds connections overrides ``close``."""

    def __init__(self) -> None:
        self.failures: dict[str, int] = {}

    def failed(self, reason: str, n: int = 1) -> None:
        """Count ``n`` parts or captions that stay unknown."""
        self.failures[reason] = self.failures.get(reason, 0) + n

    def account(self) -> dict[str, float]:
        """A rule costs nothing that is worth counting."""
        return {}

    async def ready(self) -> str:
        """A rule can always judge."""
        return ""

    async def close(self) -> None:
        """Nothing to let go of."""
