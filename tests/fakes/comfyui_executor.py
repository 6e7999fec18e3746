"""Queue, executor, cache and history of the fake ComfyUI, with the order of events of 0.3.75."""

import asyncio
import heapq
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.fakes.comfyui_nodes import (
    NODES,
    Blocked,
    Context,
    ExecutorDied,
    InterruptedNode,
    NodeError,
    ProcessDied,
    is_link,
)

LAST_WORDS = (
    *("Exception in thread ", "Thread-7 (prompt_worker)", ":\n", "Traceback (most recent call last):\n"),
    *('  File "/opt/comfy/execution.py", line 286, in process_inputs\n', "", "    ", "result = f(**inputs)", "\n"),
    *("KeyboardInterrupt", "", "\n"),
)
"""What Python 3.11 writes for an exception that ends a thread."""

Item = tuple[float, str, dict[str, Any], dict[str, Any], list[str]]
Emit = Callable[[str, dict[str, Any], str | None], None]
"""``(type, data, client id or None for everybody)``."""


class Executor:
    """One prompt at a time. ``died`` is called when a node ends the whole process."""

    def __init__(
        self,
        folder: Path,
        *,
        emit: Emit,
        picture: Callable[[bytes, dict[str, Any], str], None],
        died: Callable[[], None],
        write: Callable[[str], None],
        previews: Callable[[], bool],
    ) -> None:
        self.output, self.input, self.temp = folder / "output", folder / "input", folder / "temp"
        for path in (self.output, self.input, self.temp):
            path.mkdir(parents=True, exist_ok=True)
        self.pending: list[Item] = []
        self.running: Item | None = None
        self.history: dict[str, dict[str, Any]] = {}
        self.interrupted = False
        self.freed: list[dict[str, Any]] = []
        self.keys: dict[str, str] = {}
        """Of partner nodes, by prompt id: neither queue nor history tell of them."""
        self._emit = emit
        self._picture = picture
        self._died = died
        self._write = write
        self.previews = previews
        self._work = asyncio.Event()
        self._cache: dict[str, tuple[tuple[Any, ...], dict[str, Any] | None]] = {}

    @property
    def remaining(self) -> int:
        return len(self.pending) + (self.running is not None)

    def put(self, item: Item) -> None:
        heapq.heappush(self.pending, item)
        self._work.set()
        self.announce()

    def announce(self) -> None:
        self._emit("status", {"status": {"exec_info": {"queue_remaining": self.remaining}}}, None)

    def delete(self, prompt_id: str) -> None:
        kept = [item for item in self.pending if item[1] != prompt_id]
        if len(kept) != len(self.pending):
            self.pending[:] = kept
            heapq.heapify(self.pending)
            self.announce()

    def interrupt(self, prompt_id: str | None) -> None:
        if prompt_id is None or (self.running is not None and self.running[1] == prompt_id):
            self.interrupted = True

    async def run(self) -> None:
        """The worker thread; returns when it is dead."""
        while True:
            while not self.pending:
                self._work.clear()
                await self._work.wait()
            self.running = heapq.heappop(self.pending)
            self.announce()
            await asyncio.sleep(0)
            try:
                await _Prompt(self, self.running).run()
            except ExecutorDied as silent:
                if not silent.args:
                    for piece in LAST_WORDS:
                        self._write(piece)
                return
            except ProcessDied:
                self._died()
                return
            item, self.running = self.running, None
            self.announce()
            self._emit("executing", {"node": None, "prompt_id": item[1]}, item[3].get("client_id"))

    def emit(self, kind: str, data: dict[str, Any], client_id: str | None) -> None:
        self._emit(kind, data, client_id)

    def picture(self, data: bytes, facts: dict[str, Any], client_id: str) -> None:
        self._picture(data, facts, client_id)

    def swap_cache(self, cache: dict[str, Any]) -> dict[str, Any]:
        """Classic cache: only the previous prompt's results."""
        old, self._cache = self._cache, cache
        return old


class _Prompt:
    """One execution."""

    def __init__(self, executor: Executor, item: Item) -> None:
        self._executor = executor
        self._item = item
        self._id, self._graph, self._client = item[1], item[2], item[3].get("client_id")
        self._results: dict[str, tuple[tuple[Any, ...], dict[str, Any] | None]] = {}
        self._signatures: dict[str, str] = {}
        self._messages: list[list[Any]] = []
        self._outputs: dict[str, Any] = {}
        self._new_cache: dict[str, Any] = {}
        self._blocked: set[str] = set()

    async def run(self) -> None:
        self._executor.interrupted = False
        old = self._executor.swap_cache(self._new_cache)
        self._tell("execution_start", {})
        order = self._order()
        cached = [node_id for node_id in order if self._signature(node_id) in old and not self._node(node_id).always]
        self._tell("execution_cached", {"nodes": cached})
        status = "success"
        try:
            for node_id in order:
                await self._step(node_id, old if node_id in cached else {})
            self._tell("execution_success", {})
        except InterruptedNode as stop:
            self._tell("execution_interrupted", self._where(str(stop)))
            status = "error"
        except NodeError as error:
            node_id = str(error.__notes__[0])
            text = str(error) + (
                "\nThis error means you ran out of memory on your GPU." if "Memory" in error.kind else ""
            )
            facts = {"exception_message": text + "\n", "exception_type": error.kind}
            inputs = {"key": [self._executor.keys.get(self._id)]}
            hidden = {"traceback": ['  File "/opt/fake/execution.py"'], "current_inputs": inputs, "current_outputs": []}
            self._tell("execution_error", self._where(node_id) | facts | hidden)
            status = "error"
        self._record(status)

    def _record(self, status: str) -> None:
        number, prompt_id, graph, extra, wanted = self._item
        meta = {n: {"node_id": n, "display_node": n, "parent_node": None, "real_node_id": n} for n in self._outputs}
        self._executor.history[prompt_id] = {
            "prompt": [number, prompt_id, graph, extra, wanted],
            "outputs": self._outputs,
            "status": {"status_str": status, "completed": status == "success", "messages": self._messages},
            "meta": meta,
        }

    async def _step(self, node_id: str, old: dict[str, Any]) -> None:
        signature = self._signature(node_id)
        if signature in old:
            self._results[node_id] = self._new_cache[signature] = old[signature]
            if self._node(node_id).output_node:
                self._report(node_id, old[signature][1])
            return
        await asyncio.sleep(0)
        if self._executor.interrupted:
            raise InterruptedNode(node_id)
        if any(source in self._blocked for source in self._sources(node_id)):
            self._blocked.add(node_id)
            return
        self._progress_state(node_id, "running")
        self._emit("executing", {"node": node_id, "display_node": node_id})
        try:
            result = await self._node(node_id).run(self._context(node_id), self._inputs(node_id))
        except Blocked as blocked:
            self._block(node_id, str(blocked))
            return
        except NodeError as error:
            error.add_note(node_id)
            raise
        except (AttributeError, TypeError, KeyError, ValueError, OSError) as error:
            raised = NodeError(type(error).__name__, str(error))
            raised.add_note(node_id)
            raise raised from error
        self._results[node_id] = self._new_cache[signature] = result
        if result[1]:
            self._report(node_id, result[1])
        self._progress_state(node_id, "finished")

    def _block(self, node_id: str, message: str) -> None:
        self._blocked.add(node_id)
        if message:
            consumer = next((n for n in self._graph if node_id in self._sources(n)), node_id)
            facts = {"exception_message": f"Execution Blocked: {message}", "exception_type": "ExecutionBlocked"}
            self._emit("execution_error", self._where(consumer) | facts | {"traceback": [], "current_inputs": []})

    def _report(self, node_id: str, ui: dict[str, Any] | None) -> None:
        self._emit("executed", {"node": node_id, "display_node": node_id, "output": ui})
        if ui is not None:
            self._outputs[node_id] = ui

    def _context(self, node_id: str) -> Context:
        def tick(value: float, maximum: float) -> None:
            if self._executor.interrupted:
                self._executor.interrupted = False
                raise InterruptedNode(node_id)
            self._progress_state(node_id, "running")
            self._emit("progress", {"value": value, "max": maximum, "node": node_id})

        def picture(data: bytes, mime_type: str = "image/png") -> None:
            facts = {"node_id": node_id, "prompt_id": self._id, "display_node_id": node_id, "image_type": mime_type}
            self._executor.picture(data, facts, self._client)

        executor = self._executor
        return Context(
            output=executor.output,
            input=executor.input,
            temp=executor.temp,
            tick=tick,
            picture=picture,
            preview=lambda: picture(b"\xff\xd8\xff\xe0 small", "image/jpeg") if executor.previews() else None,
            api_key=executor.keys.get(self._id),
        )

    def _order(self) -> list[str]:
        order: list[str] = []

        def visit(node_id: str) -> None:
            if node_id not in order:
                for source in self._sources(node_id):
                    if source not in self._graph:
                        raise ExecutorDied  # an undeclared input that links to nowhere
                    visit(source)
                order.append(node_id)

        for node_id in self._item[4]:
            visit(node_id)
        return order

    def _sources(self, node_id: str) -> list[str]:
        return [value[0] for value in self._graph[node_id]["inputs"].values() if is_link(value)]

    def _inputs(self, node_id: str) -> dict[str, Any]:
        declared = self._node(node_id).required
        return {
            name: self._results[value[0]][0][int(value[1])] if is_link(value) else value
            for name, value in self._graph[node_id]["inputs"].items()
            if name in declared
        }

    def _signature(self, node_id: str) -> str:
        if node_id not in self._signatures:
            inputs = self._graph[node_id]["inputs"]
            shown = {n: [self._signature(v[0]), v[1]] if is_link(v) else v for n, v in inputs.items()}
            self._signatures[node_id] = json.dumps([self._graph[node_id]["class_type"], shown], sort_keys=True)
        return self._signatures[node_id]

    def _node(self, node_id: str) -> Any:
        return NODES[self._graph[node_id]["class_type"]]

    def _where(self, node_id: str) -> dict[str, Any]:
        return {"node_id": node_id, "node_type": self._graph[node_id]["class_type"], "executed": list(self._results)}

    def _progress_state(self, node_id: str, state: str) -> None:
        nodes = {node_id: {"value": 0.0, "max": 1.0, "state": state, "node_id": node_id, "prompt_id": self._id}}
        self._emit("progress_state", {"nodes": nodes})

    def _tell(self, kind: str, data: dict[str, Any]) -> None:
        """Send a message that the history keeps too."""
        facts = {**data, "prompt_id": self._id, "timestamp": int(time.time() * 1000)}
        self._messages.append([kind, facts])
        self._executor.emit(kind, facts, self._client)

    def _emit(self, kind: str, data: dict[str, Any]) -> None:
        self._executor.emit(kind, {**data, "prompt_id": self._id}, self._client)
