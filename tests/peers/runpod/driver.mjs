// Drives an endpoint with the unmodified npm package runpod-sdk.
//
// PEER_SETUP='{"base", "endpoint", "key", "body", ...}' node --input-type=module - SCENARIO < driver.mjs, in a folder
// that has the package; one JSON line per result on stdout. Knows nothing of our code, so that it can be pointed at any
// endpoint. `requests` of a result: how many HTTP requests the package made for it.

import runpodSdk from "runpod-sdk"

const setup = JSON.parse(process.env.PEER_SETUP)
const endpoint = runpodSdk(setup.key, { baseUrl: setup.base }).endpoint(setup.endpoint)
const final = ["COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT"]

let requests = 0
const fetch = globalThis.fetch
globalThis.fetch = (...given) => {
  requests += 1
  return fetch(...given)
}

const tell = (kind, facts) => console.log(JSON.stringify({ kind, ...facts }))

// Call, and tell what it gave or what it threw, how long it took and how many requests it was.
const timed = async (kind, call) => {
  const begun = Date.now()
  requests = 0
  const facts = {}
  try {
    facts.value = await call()
  } catch (error) {
    facts.raised = String(error?.message ?? error)
    facts.status = error?.response?.status ?? null
  }
  tell(kind, { ...facts, seconds: (Date.now() - begun) / 1000, requests })
  return facts.value
}

const until = async (id, ...wanted) => {
  const seen = []
  while (!wanted.includes(seen.at(-1))) {
    const { status } = await endpoint.status(id)
    if (!seen.includes(status)) seen.push(status)
    await new Promise((resolve) => setTimeout(resolve, 100))
  }
  tell("statuses", { value: seen })
}

const scenarios = {
  // Submit, poll, fetch.
  async run() {
    const { id } = await timed("submitted", () => endpoint.run(setup.body))
    await until(id, ...final)
    await timed("status", () => endpoint.status(id))
  },

  // One call; the package loops over status-sync when the job takes longer than it waits at once.
  async runSync() {
    await timed("result", () => endpoint.runSync(setup.body, setup.timeout ?? 90000))
  },

  // Follow it to its end. The package asks again at once, so it is for the endpoint to hold the request.
  async stream() {
    const { id } = await timed("submitted", () => endpoint.run(setup.body))
    await timed("streamed", async () => {
      const chunks = []
      for await (const chunk of endpoint.stream(id)) chunks.push(chunk)
      return chunks
    })
    await timed("status", () => endpoint.status(id))
  },

  // Every call in the middle of a job, within the package's limits; then the end of it.
  async whileRunning() {
    const { id } = await timed("submitted", () => endpoint.run(setup.body))
    await until(id, "IN_PROGRESS")
    await timed("health", () => endpoint.health())
    const waiting = await endpoint.run(setup.body)
    await timed("purged", () => endpoint.purgeQueue())
    await timed("status of the purged", () => endpoint.status(waiting.id))
    await timed("status", () => endpoint.status(id))
    await timed("cancelled", () => endpoint.cancel(id))
    await until(id, ...final)
  },

  async unknown() {
    await timed("status", () => endpoint.status("nobody-knows-me"))
    await timed("cancel", () => endpoint.cancel("nobody-knows-me"))
  },

  async refused() {
    await timed("run", () => endpoint.run(setup.body))
    await timed("health", () => endpoint.health())
  },
}

await scenarios[process.argv[2]]()
