"""Which worker gets which request: pure policies over ``router.model``. No clock, no I/O, chance only as injected.

``Chooser`` (``router.choose.chooser``) is all that the dispatcher calls, a deterministic state machine: it keeps the
workers in order of speed and of expected finish, and counts every assignment against its worker until it is settled.

    Chooser(policy: Policy, *, chance: random.Random, speeds: Speeds, load: OfferedLoad, tuning: Tuning = Tuning())

    put(view: WorkerView, now: float) -> None          a worker is new, or reported; own assignments stay counted
    drop(worker: str) -> tuple[Assignment, ...]        it is gone; what it still held
    plan(asks: Iterable[Ask], now: float) -> list[Placement]
        Decide for waiting asks, in the order given (``FairQueue.order()``); lazy: reads no further than needed. Placed
        asks are counted at once. Asks without a placement in the answer were not looked at: they wait.
    settle(request_id: str, now: float) -> Assignment | None
        It ended, was refused, or the store did not grant the reservation (undo). Then plan again.
    note(assignment: Assignment) -> None               another replica assigned this
    started(request_id: str, now: float) -> None       it is known to run since now (optional, sharpens estimates)
    wait(ask: Ask, ahead: float, now: float) -> Wait   expected start with ``ahead`` units queued before it
    rest(endpoint: str, workers: frozenset[str]) -> None
        These are kept free for release (``router.scaling``); they get work only where nobody else can do it.
    next_change(endpoint: str, now: float) -> float | None
        When to plan again though nothing happens: the next moment a busy worker may be handed one more.
    explain(ask: Ask, now: float, ...) -> Explanation  in full, on demand, for an ask that waits
    explained(request_id: str) -> Explanation | None   of one of the last decisions
    asked(request_id: str) -> Ask | None               what it was made for
    assignment(request_id: str) -> Assignment | None
    held(worker: str) -> tuple[Assignment, ...]
    capacity(endpoint: str) -> float                   units per second of its ready workers

Beside it: ``router.estimate`` (``Sizes``, ``Speeds``, ``OfferedLoad``) learns from finished jobs, ``router.fairness``
(``FairQueue``) says in which order asks are to be planned. Order of calls for one request:

    queue.push(ask) -> load.arrived(endpoint, size, now) -> plan(queue.order(now), now)
    -> for each assignment: queue.take(request_id) and, where the store is shared, reserve there (else settle: undo)
    -> at the end: settle(), queue.settled(request_id), sizes.observe(), speeds.observe() -> plan again
"""
