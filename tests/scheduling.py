"""Hand test files to the workers of pytest-xdist, also after one of them has died."""

from __future__ import annotations

from typing import Any

from xdist.scheduler import LoadFileScheduling


class FileScheduling(LoadFileScheduling):
    """As xdist's own, which waits for ever once a worker has died.

    xdist 3.8 hands the dead worker's files to others, finished ones too. A worker that is given nothing but
    finished tests, or one test only, reports nothing and is never given more.
    """

    def remove_node(self, node: Any) -> str | None:
        """Take what a worker has not run back; return the test in which it died, which is not run again."""
        files = self.assigned_work[node].values()
        died_in = next((test for tests in files for test, done in tests.items() if not done), None)
        for tests in files:
            if died_in in tests:
                tests[died_in] = True
        super().remove_node(node)
        return died_in

    def _reschedule(self, node: Any) -> None:
        super()._reschedule(node)
        while not node.shutting_down and self._pending_of(self.assigned_work[node]) < 2:
            super()._reschedule(node)


def pytest_xdist_make_scheduler(config: Any, log: Any) -> FileScheduling | None:
    """Take this scheduler for `--dist loadfile`."""
    return FileScheduling(config, log) if config.getoption("dist") == "loadfile" else None
