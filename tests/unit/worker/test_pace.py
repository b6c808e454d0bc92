"""What a worker says of its jobs' lengths."""

from worker.pace import LATELY, Pace


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def run(pace: Pace, clock: Clock, *seconds: float) -> None:
    for each in seconds:
        pace.begin()
        clock.now += each
        pace.end()
        clock.now += 50  # idle: no part of any job


def test_before_its_first_job_there_is_no_mean() -> None:
    assert Pace().fields() == {"busy_seconds": "0.000"}


def test_it_is_the_mean_of_the_first_jobs() -> None:
    pace = Pace(clock := Clock())
    run(pace, clock, 1, 2, 6)
    assert pace.fields() == {"job_seconds": "3.0000", "busy_seconds": "0.000"}


def test_the_latest_jobs_count_and_the_first_ones_are_forgotten() -> None:
    pace = Pace(clock := Clock())
    run(pace, clock, *[1.0] * 200)
    run(pace, clock, *[3.0] * (LATELY // 2))
    assert 1.5 < float(pace.fields()["job_seconds"]) < 2
    run(pace, clock, *[3.0] * (4 * LATELY))
    assert 2.9 < float(pace.fields()["job_seconds"]) < 3.01


def test_what_goes_before_it_meanwhile_is_none_of_its_time() -> None:
    pace = Pace(clock := Clock())
    pace.begin()
    clock.now += 1
    pace.begin()
    clock.now += 10
    assert pace.fields()["busy_seconds"] == "10.000"
    pace.end()
    assert pace.fields() == {"job_seconds": "10.0000", "busy_seconds": "1.000"}
    clock.now += 1
    pace.end()
    assert pace.fields() == {"job_seconds": "6.0000", "busy_seconds": "0.000"}


def test_while_a_job_runs_it_says_for_how_long() -> None:
    pace = Pace(clock := Clock())
    pace.begin(clock.now - 1)
    clock.now += 1.5
    assert pace.fields() == {"busy_seconds": "2.500"}
    pace.end()
    pace.end()
    assert pace.fields() == {"job_seconds": "2.5000", "busy_seconds": "0.000"}
