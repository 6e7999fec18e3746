"""The books: every unit of workload is somewhere, and is told once."""

from dataclasses import replace
from datetime import timedelta

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from lib.fleet.ledger import MOST_UNDELIVERED, REMEMBERED_NUMBERS, Amounts, Ledger
from lib.jobs.model import Job, JobSpec, JobStatus, Timings
from tests.fakes.clock import START, FakeClock

OUTCOMES = (JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED)


def job(job_id: str = "j", *, cost: float = 100.0, tag: int | None = None, internal: bool = False) -> Job:
    spec = JobSpec(request_id=job_id, dialect="vast", workflow=b"", tag=tag, internal=internal)
    return Job(job_id=job_id, spec=spec, sequence=1, cost=cost, timings=Timings(accepted_at=START))


def ended(live: Job, status: JobStatus, *, started: bool = True) -> Job:
    times = replace(
        live.timings,
        execution_started_at=START + timedelta(seconds=2) if started else None,
        finished_at=START + timedelta(seconds=5),
    )
    return live.with_(status=status, timings=times)


def ledger() -> Ledger:
    return Ledger(clock=FakeClock())


def test_load_rises_and_falls_with_a_job() -> None:
    """Accepted is load and new; completed is served; then nothing is left."""
    books, live = ledger(), job(tag=7)
    books.received(live)
    now = books.figures()
    assert (now.load, now.working_count, now.working_tags) == (100.0, 1, (7,))
    assert now.since_report == Amounts(received=100.0)
    books.finished(ended(live, JobStatus.COMPLETED))
    then = books.figures()
    assert (then.load, then.working_count, then.working_tags) == (0.0, 0, ())
    assert then.since_report == Amounts(received=100.0, served=100.0)


def test_a_number_is_not_free_while_work_under_it_goes_on() -> None:
    """Whatever becomes of another request with it: the router would give its worker up."""
    books, live = ledger(), job(tag=7)
    books.received(live)
    books.invalid(tag=7)
    books.rejected(cost=50.0, tag=7)
    assert books.deleted(10) == () and books.figures().since_report.rejected == 50.0
    books.finished(ended(live, JobStatus.COMPLETED))
    assert [str(item.status) for item in books.deleted(10)] == ["Success"]


def test_each_outcome_is_told_with_its_times() -> None:
    """Success and Error have an end; Cancelled has none and counts as a success; never started is 0.0."""
    books = ledger()
    for tag, (status, started) in enumerate(
        [
            (JobStatus.COMPLETED, True),
            (JobStatus.FAILED, True),
            (JobStatus.CANCELLED, True),
            (JobStatus.CANCELLED, False),
        ],
        start=1,
    ):
        live = job(f"j{tag}", tag=tag)
        books.received(live)
        books.finished(ended(live, status, started=started))
    began, start, end = START.timestamp(), START.timestamp() + 2, START.timestamp() + 5
    assert [item.model_dump(mode="json") for item in books.deleted(10)] == [
        _told(1, "Success", True, began, start, end),
        _told(2, "Error", False, began, start, end),
        _told(3, "Cancelled", True, began, start, 0.0),
        _told(4, "Cancelled", True, began, 0.0, 0.0),
    ]


def _told(tag: int, status: str, success: bool, entered: float, started: float, completed: float) -> dict[str, object]:
    return {
        "request_idx": tag,
        "success": success,
        "status": status,
        "entered_queue_at": entered,
        "work_started_at": started,
        "work_completed_at": completed,
    }


def test_rejected_work_is_not_load() -> None:
    """A refusal is rejected workload and one Rejected entry; load and new load do not move."""
    books = ledger()
    books.rejected(cost=100.0, tag=4)
    figures = books.figures()
    assert (figures.load, figures.since_report) == (0.0, Amounts(rejected=100.0))
    assert [(item.request_idx, item.status, item.success) for item in books.deleted(9)] == [(4, "Rejected", False)]


def test_a_wrong_request_only_frees_its_number() -> None:
    """Bad input must not make an autoscaler add workers."""
    books = ledger()
    books.invalid(tag=4)
    assert books.figures().since_report == Amounts()
    assert [(item.request_idx, item.status) for item in books.deleted(9)] == [(4, "Error")]


def test_jobs_without_a_router_are_load_but_not_told() -> None:
    """A request on the API listener occupies the GPU; no router waits for its number."""
    books, live = ledger(), job(tag=None)
    books.received(live)
    assert (books.figures().load, books.figures().working_tags) == (100.0, ())
    books.finished(ended(live, JobStatus.COMPLETED))
    assert books.deleted(9) == ()


def test_internal_jobs_are_not_counted() -> None:
    """The benchmark is nobody's load."""
    books, live = ledger(), job(internal=True, tag=1)
    books.received(live)
    books.finished(ended(live, JobStatus.COMPLETED))
    assert books.figures().since_report == Amounts()
    assert books.deleted(9) == ()


def test_increments_during_a_report_in_flight_survive() -> None:
    """Only what the delivered report said is taken off."""
    books = ledger()
    books.received(job("a"))
    said = books.figures()
    books.received(job("b", cost=30.0))
    books.rejected(cost=5.0, tag=None)
    books.delivered(said)
    assert books.figures().since_report == Amounts(received=30.0, rejected=5.0)


def test_a_session_stands_for_the_jobs_inside_it() -> None:
    """An open session is load; its jobs are new and served work, but not load on top; the end is told as Success."""
    books, inner = ledger(), job("inner", cost=40.0)
    books.session_opened("s", cost=100.0, tag=9)
    books.received(inner)
    books.session_joined("s", "inner")
    open_now = books.figures()
    assert (open_now.load, open_now.working_count, open_now.working_tags) == (100.0, 1, (9,))
    assert open_now.since_report.received == 140.0
    books.finished(ended(inner, JobStatus.COMPLETED))
    assert books.deleted(9) == ()
    books.session_closed("s")
    books.session_closed("s")
    assert books.figures().load == 0.0
    assert books.figures().since_report.served == 140.0
    assert [(item.request_idx, item.status) for item in books.deleted(9)] == [(9, "Success")]


def test_seen_numbers_are_counted_once_in_bounded_memory() -> None:
    """Distinct numbers, however often they come; the table does not grow for ever."""
    books = ledger()
    for number in (1, 2, 1, 2, 3):
        books.seen(number)
    assert books.figures().seen_count == 3
    for number in range(10, 10 + 2 * REMEMBERED_NUMBERS):
        books.seen(number)
    assert books.figures().seen_count == 3 + 2 * REMEMBERED_NUMBERS
    assert len(books._numbers) == REMEMBERED_NUMBERS


def test_delivered_deletes_go_and_later_ones_stay() -> None:
    """The same number may be told twice; each entry is told once."""
    books = ledger()
    books.rejected(cost=1, tag=4)
    sent = books.deleted(10)
    books.rejected(cost=1, tag=4)
    books.deletes_delivered(sent)
    assert len(books.deleted(10)) == 1
    assert books.deleted(0) == ()


def test_an_autoscaler_that_never_answers_costs_bounded_memory() -> None:
    """The oldest entries go first, also under a delivery in flight."""
    books = ledger()
    for tag in range(1, MOST_UNDELIVERED + 1):
        books.invalid(tag=tag)
    in_flight = books.deleted(3)
    books.invalid(tag=MOST_UNDELIVERED + 1)
    books.deletes_delivered(in_flight)
    left = books.deleted(MOST_UNDELIVERED + 5)
    assert (left[0].request_idx, len(left)) == (4, MOST_UNDELIVERED - 2)


def test_listeners_hear_of_each_change() -> None:
    """Arrival, end (a cancel too) and refusal are news for the reporter."""
    books, heard = ledger(), list[int]()
    books.listen(lambda: heard.append(1))
    live = job(tag=1)
    books.received(live)
    books.finished(ended(live, JobStatus.CANCELLED))
    books.rejected(cost=1, tag=2)
    books.invalid(tag=3)
    books.session_opened("s", cost=1, tag=4)
    books.session_closed("s")
    assert len(heard) == 6


def test_every_number_of_a_job_is_free_when_it_ends() -> None:
    """Its own and those of further requests for it, each once; until then they are at work."""
    books, live = ledger(), job(tag=7)
    books.received(live)
    for tag in (8, 7, 8, None, 0, 9):
        books.joined(live, tag=tag)
    assert books.figures().working_tags == (7, 8, 9)
    assert books.deleted(9) == ()
    books.finished(ended(live, JobStatus.FAILED))
    assert [(item.request_idx, str(item.status)) for item in books.deleted(9)] == [(n, "Error") for n in (7, 8, 9)]
    assert books.figures().working_tags == ()


def test_a_number_that_joins_too_late_is_free_at_once() -> None:
    """The job ended in between."""
    books, live = ledger(), job(tag=7)
    books.received(live)
    over = ended(live, JobStatus.COMPLETED)
    books.finished(over)
    books.joined(over, tag=8)
    assert [item.request_idx for item in books.deleted(9)] == [7, 8]


def test_a_question_gives_its_number_back_but_never_that_of_work() -> None:
    """A ticket may be used for a job and for asking about it."""
    books, live = ledger(), job(tag=7)
    books.received(live)
    books.joined(live, tag=8)
    books.session_opened("s", cost=1, tag=9)
    for tag in (7, 8, 9, None, 0):
        books.answered(tag=tag)
    assert books.deleted(9) == ()
    books.answered(tag=10)
    (told,) = books.deleted(9)
    assert (told.request_idx, told.success) == (10, True)
    assert books.figures().since_report == Amounts(received=101.0)


def test_a_job_from_outside_keeps_its_load_and_number() -> None:
    """A request inside a session joined it: the session's cost does not stand for it."""
    books, live = ledger(), job(tag=7)
    books.received(live)
    books.session_opened("s", cost=1, tag=9)
    books.session_joined("s", live.job_id)
    assert books.figures().load == 101.0
    books.finished(ended(live, JobStatus.COMPLETED))
    assert [item.request_idx for item in books.deleted(9)] == [7]


class Books(RuleBasedStateMachine):
    """received = served + failed + cancelled + load, in every order of events; and reports add up to the totals."""

    jobs = Bundle("jobs")
    sessions = Bundle("sessions")
    costs = st.integers(0, 1_000_000).map(lambda n: n / 4)

    def __init__(self) -> None:
        super().__init__()
        self.books = ledger()
        self.count = 0
        self.reported = Amounts()

    @rule(target=jobs, cost=costs, tag=st.none() | st.integers(0, 5))
    def accept(self, cost: float, tag: int | None) -> Job:
        self.count += 1
        live = job(f"j{self.count}", cost=cost, tag=tag)
        self.books.received(live)
        return live

    @rule(live=consumes(jobs), status=st.sampled_from(OUTCOMES))
    def finish(self, live: Job, status: JobStatus) -> None:
        self.books.finished(ended(live, status))

    @rule(target=sessions, cost=costs)
    def open(self, cost: float) -> str:
        self.count += 1
        self.books.session_opened(f"s{self.count}", cost=cost, tag=self.count)
        return f"s{self.count}"

    @rule(session=sessions, live=jobs)
    def join(self, session: str, live: Job) -> None:
        self.books.session_joined(session, live.job_id)

    @rule(live=jobs, tag=st.integers(0, 5))
    def share(self, live: Job, tag: int) -> None:
        self.books.joined(live, tag=tag)

    @rule(tag=st.integers(0, 5))
    def ask(self, tag: int) -> None:
        working, told = self.books.figures().working_tags, len(self.books.deleted(10_000))
        self.books.answered(tag=tag)
        given_back = len(self.books.deleted(10_000)) - told
        assert given_back == (tag != 0 and tag not in working)

    @rule(session=consumes(sessions))
    def close(self, session: str) -> None:
        self.books.session_closed(session)

    @rule(cost=costs)
    def reject(self, cost: float) -> None:
        self.books.rejected(cost=cost, tag=None)

    @rule(cost=costs)
    def report_while_work_arrives(self, cost: float) -> None:
        figures = self.books.figures()
        self.accept_unseen(cost)
        self.books.delivered(figures)
        self.reported = self.reported.plus(**_as_dict(figures.since_report))

    def accept_unseen(self, cost: float) -> None:
        self.count += 1
        live = job(f"j{self.count}", cost=cost)
        self.books.received(live)
        self.books.finished(ended(live, JobStatus.COMPLETED))

    @invariant()
    def nothing_is_lost(self) -> None:
        total = self.books.totals
        assert total.received == total.served + total.failed + total.cancelled + self.books.open_cost
        assert self.reported.plus(**_as_dict(self.books.figures().since_report)) == total
        assert 0 <= self.books.figures().load <= self.books.open_cost


def _as_dict(amounts: Amounts) -> dict[str, float]:
    return {name: getattr(amounts, name) for name in Amounts.__slots__}


Books.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestBooks = Books.TestCase


@given(st.lists(st.floats(0, 1e6), max_size=30))
@settings(max_examples=50, deadline=None)
def test_an_idle_worker_has_exactly_no_load(costs: list[float]) -> None:
    """No rounding error is left behind, whatever the costs."""
    books = ledger()
    live = [job(f"j{number}", cost=cost) for number, cost in enumerate(costs)]
    for item in live:
        books.received(item)
    for item in live:
        books.finished(ended(item, JobStatus.COMPLETED))
    assert books.figures().load == 0.0
    books.delivered(books.figures())
    assert books.figures().since_report == Amounts()
