"""One bad frame opens no door, and no jump of a clock does."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catflap.errors import CatflapError
from catflap.live.hysteresis import Rules, State, average, leave_threshold, step
from catflap.live.watch_settings import WatchSettings

CAT, OTHER, HALF = (0.99, 0.01), (0.01, 0.99), (0.6, 0.4)
ENTER, LEAVE = 0.8, 0.5
FPS = 10
UNKNOWN = State()


def seen(
    state: State,
    frame: tuple[float, ...],
    clock: float,
    rules: Rules,
    enter: float = ENTER,
    leave: float = LEAVE,
) -> State:
    """The state after one more frame."""
    averaged = average(state, frame, clock, rules.smoothing)
    best = averaged.index(max(averaged))
    return step(state, averaged, best if averaged[best] >= enter else None, leave, clock, rules)


def follow(
    frames: Iterable[tuple[float, ...]],
    rules: Rules,
    state: State = UNKNOWN,
    start: float = 0.0,
    enter: float = ENTER,
    leave: float = LEAVE,
) -> list[State]:
    """The states after each frame, ten frames a second."""
    found = []
    for number, frame in enumerate(frames, 1):
        state = seen(state, frame, start + number / FPS, rules, enter, leave)
        found.append(state)
    return found


def currents(states: list[State]) -> list[int | None]:
    return [state.current for state in states]


def test_a_label_is_entered_after_its_dwell_and_not_before() -> None:
    states = currents(follow([CAT] * 8, Rules(dwell=0.3, frames=3)))
    assert states == [None, None, None, 0, 0, 0, 0, 0]


def test_the_frames_count_too() -> None:
    assert currents(follow([CAT] * 8, Rules(dwell=0, frames=6))) == [None] * 5 + [0] * 3


@pytest.mark.parametrize("memory", [0.0, 0.3, 2.0])
def test_one_bad_frame_changes_nothing(memory: float) -> None:
    rules = Rules(smoothing=memory)
    assert set(currents(follow([*[OTHER] * 20, CAT, *[OTHER] * 20], rules))[10:]) == {1}
    state = follow([CAT] * 20, rules)[-1]
    assert set(currents(follow([OTHER, *[CAT] * 9], rules, state, 2.0))) == {0}


def test_between_the_thresholds_a_decision_stays() -> None:
    inside = follow([CAT] * 20, Rules(), enter=0.9)[-1]
    assert set(currents(follow([HALF] * 50, Rules(), inside, 2.0, 0.9))) == {0}
    assert set(currents(follow([HALF] * 50, Rules(), enter=0.9))) == {None}


def test_a_threshold_of_a_half_does_not_let_two_labels_take_turns() -> None:
    states = follow([CAT] * 20, Rules(), enter=0.5)
    for share in (0.45, 0.55, 0.3, 0.22):
        states += follow([(share, 1 - share)] * 30, Rules(), states[-1], states[-1].clock, 0.5, 0.2)
        assert states[-1].current == 0
    states += follow([(0.18, 0.82)] * 30, Rules(), states[-1], states[-1].clock, 0.5, 0.2)
    assert states[-1].current == 1


def test_below_the_leave_threshold_it_becomes_unsure() -> None:
    inside = follow([CAT] * 20, Rules(), enter=0.9)[-1]
    states = currents(follow([(0.4, 0.6)] * 50, Rules(), inside, 2.0, 0.9))
    assert states[0] == 0
    assert states[-1] is None


@pytest.mark.parametrize("fps", [1, 2, 3, 4, 30])
def test_a_label_is_left_also_when_the_other_one_hovers_around_its_threshold(fps: int) -> None:
    """What is wanted instead changes from frame to frame; that the label is too unlikely does not."""
    inside = follow([CAT] * 20, Rules())[-1]
    state = inside
    for number in range(5 * fps):
        state = seen(state, OTHER if number % 2 else (0.34, 0.66), 2.0 + number / fps, Rules())
    assert inside.current == 0
    assert state.current != 0


@pytest.mark.parametrize("between", [1, 2])
def test_a_label_that_is_being_entered_follows_the_one_that_is_left_without_a_detour(between: int) -> None:
    rules = Rules(smoothing=0, dwell=0, frames=3)
    inside = follow([CAT] * 5, rules)[-1]
    states = currents(follow([(0.4, 0.6)] * between + [OTHER] * 5, rules, inside, 2.0))
    assert states == [0] * (between + 2) + [1] * 3


def test_two_other_labels_that_take_turns_end_a_decision_too() -> None:
    rules = Rules(smoothing=0, dwell=0, frames=3)
    frames = [(0.9, 0.1, 0.0)] * 5 + [(0.0, 0.9, 0.1), (0.0, 0.1, 0.9)] * 3
    assert currents(follow(frames, rules))[2:] == [0] * 5 + [None] * 4


def test_one_label_can_follow_another() -> None:
    states = currents(follow([*[CAT] * 20, *[OTHER] * 20], Rules()))
    assert states[19] == 0
    assert states[-1] == 1


def test_three_labels_none_of_which_is_likely_are_unsure() -> None:
    assert set(currents(follow([(0.4, 0.35, 0.25)] * 30, Rules()))) == {None}


def test_an_average_forgets_with_its_time_constant() -> None:
    rules = Rules(smoothing=1.0)
    state = seen(State(), (1.0, 0.0), 0.0, rules)
    state = seen(state, (0.0, 1.0), 1.0, rules)
    assert state.average == pytest.approx((0.36788, 0.63212), abs=1e-5)


def test_a_clock_that_goes_back_counts_as_one_that_stands() -> None:
    rules = Rules()
    state = follow([OTHER] * 20, rules)[-1]
    back = follow([CAT] * 100, rules, State(**{**vars(state), "clock": 1e9}), start=0.0)
    assert back[0].average == state.average, "no time has passed"
    assert back[0].current == 1
    assert back[-1].current == 0, "from there on time passes again"


def test_a_clock_that_leaps_ahead_does_not_make_one_frame_enough() -> None:
    rules = Rules()
    state = follow([OTHER] * 20, rules)[-1]
    leapt = seen(state, CAT, 1e9, rules)
    assert leapt.current == 1
    assert seen(leapt, OTHER, 1e9 + 0.1, rules).current == 1
    twice = seen(leapt, CAT, 2e9, rules)
    assert twice.current == 1, "two frames are fewer than three"


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(-5, 50)), min_size=1, max_size=60),
    st.integers(1, 5),
    st.floats(0, 2),
)
def test_whatever_comes_a_change_takes_its_frames(
    frames: list[tuple[float, float]], least: int, memory: float
) -> None:
    rules = Rules(frames=least, smoothing=memory)
    state, since = State(), 0
    for share, clock in frames:
        after = seen(state, (share, 1 - share), clock, rules)
        assert sum(after.average) == pytest.approx(1)
        since += 1
        if after.current != state.current:
            assert since >= least
            since = 0
        state = after


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 2)), min_size=1, max_size=60), st.integers(1, 5))
def test_whatever_comes_no_label_long_outlives_its_threshold(
    frames: list[tuple[float, float]], least: int
) -> None:
    """Once it was too unlikely for long enough, another label may still have as long to be entered."""
    rules = Rules(frames=least, dwell=0.5)
    state, clock = State(), 0.0
    low: list[float] = []  # the times of frames in a row below the threshold
    for share, pause in frames:
        clock += pause
        after = seen(state, (share, 1 - share), clock, rules)
        is_low = state.current is not None and after.average[state.current] < LEAVE
        low = [*low, clock] if is_low else []
        ripe = [time for count, time in enumerate(low, 1) if count >= least and time - low[0] > 0.51]
        if len(ripe) >= least and ripe[-1] - ripe[0] > 0.51:
            assert after.current != state.current
        if after.current != state.current:
            low = []
        state = after


@pytest.mark.parametrize(("enter", "leave"), [(0.8, 0.5), (0.5, 0.2), (0.99, 99 / 103), (1.0, 1.0)])
def test_a_label_is_left_at_a_quarter_of_the_odds_at_which_it_is_entered(enter: float, leave: float) -> None:
    assert leave_threshold(enter) == pytest.approx(leave)


@pytest.mark.parametrize(
    "stated",
    [
        {"enter": 0.4, "leave": 0.3}, {"enter": 0.6, "leave": 0.7}, {"leave": 0.0}, {"enter": 1.1},
        {"dwell": -1}, {"dwell": float("nan")}, {"frames": 0}, {"smoothing": 1e9}, {"enter": float("nan")},
    ],
)  # fmt: skip
def test_rules_that_make_no_sense_are_refused(stated: dict[str, float]) -> None:
    with pytest.raises(CatflapError):
        Rules(**stated)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"dwell": 4000}, "--dwell is 4000 seconds. Use 0 to 3,600 seconds."),
        ({"smoothing": -0.5}, "--smoothing is -0.5 seconds. Use 0 to 3,600 seconds."),
        ({"frames": 0, "dwell": 0.3}, "--min-frames is 0 frames. Use 1 to 10,000 frames."),
    ],
)
def test_a_rule_that_makes_no_sense_is_named_as_its_option(stated: dict[str, float], message: str) -> None:
    with pytest.raises(CatflapError) as error:
        Rules(**stated)  # type: ignore[arg-type]
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"save_bytes": 0}, "--save-mb is 0 megabytes. Use more than 0 and at most 1,000,000,000 megabytes."),
        ({"save_bytes": -2_500_000}, "--save-mb is -2.5 megabytes."),
        ({"clip_seconds": 60.0}, "--clip-seconds is 60 seconds. Use more than 0 and at most 30 seconds."),
        (
            {"max_fps": 0},
            "--max-fps is 0 frames a second. Use more than 0 and at most 1,000 frames a second.",
        ),
        ({"still": float("nan")}, "--still is nan seconds. Use more than 0 and at most 86,400 seconds."),
    ],
)
def test_a_setting_that_makes_no_sense_is_named_as_its_option(stated: dict[str, float], message: str) -> None:
    with pytest.raises(CatflapError) as error:
        WatchSettings("cat", "0", **stated)  # type: ignore[arg-type]
    assert str(error.value).startswith(message)
