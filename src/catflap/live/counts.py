"""What a watch counts; of a size that does not grow."""

from __future__ import annotations

from dataclasses import dataclass, field
from time import monotonic
from typing import Any


@dataclass
class WatchCounts:
    """Counts since the watch began; ages are seconds from a frame's arrival to the answer about it."""

    begun: float = field(default_factory=monotonic)
    read: int = 0
    judged: int = 0
    unreadable: int = 0
    decisions: int = 0
    outages: int = 0
    saved: int = 0
    clips: int = 0
    age_sum: float = 0.0
    age_max: float = 0.0

    def answer(self, age: float) -> None:
        """Count a frame that was judged."""
        self.judged += 1
        self.age_sum += age
        self.age_max = max(self.age_max, age)

    def to_json(self) -> dict[str, Any]:
        """The counts as they stand in the summary; frames that were neither judged nor bad were dropped."""
        seconds = monotonic() - self.begun
        return {
            "seconds": round(seconds, 3),
            "frames": self.read,
            "judged": self.judged,
            "dropped": self.read - self.judged - self.unreadable,
            "unreadable": self.unreadable,
            "decisions": self.decisions,
            "outages": self.outages,
            "saved": self.saved,
            "clips": self.clips,
            "judged_a_second": round(self.judged / seconds, 2) if seconds else 0.0,
            "mean_age_ms": round(self.age_sum / self.judged * 1e3, 3) if self.judged else 0.0,
            "max_age_ms": round(self.age_max * 1e3, 3),
        }
