// The fleet, live: reads /page/events (a snapshot, then changes) and shows it. No library; texts of workers are only
// ever set as text. The key, where one is needed, stays in this tab's session storage and travels in a header.

const $ = (id) => document.getElementById(id);
const KEY = "router-key";
const KEPT = {decisions: 40, troubles: 40, points: 150};
const SILENT_MS = 40000, HIDDEN_MS = 60000, MOST = 500, STEP = 60;

const fleet = {endpoints: {}, names: [], workers: new Map(), order: [], matching: 0, known: 0, totals: {outcomes: {}, refusals: {}},
               decisions: [], troubles: [], jobs: null, degraded: null, replica: "", loads: new Map()};
let skew = 0;
let most = STEP;

// -- small things -----------------------------------------------------------------------------------------------------

function el(tag, options = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(options)) {
    if (name === "class") made.className = value;
    else if (name === "text") made.textContent = value;
    else made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

function put(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function number(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size >= 1e6) return (value / 1e6).toFixed(1) + " M";
  if (size >= 1e4) return Math.round(value).toLocaleString("en");
  if (size >= 100 || Number.isInteger(value)) return Math.round(value).toLocaleString("en");
  return value.toFixed(size >= 10 ? 1 : 2);
}

function units(value) {
  return `${number(Math.abs(value) >= 10 ? Math.round(value) : value)} units`;
}

function percent(share) {
  return `${Math.round(100 * share)} %`;
}

function fillTo(bar, share) {
  bar.style.width = `${(100 * Math.min(Math.max(share, 0), 1)).toFixed(1)}%`;
}

function span(seconds) {
  if (!Number.isFinite(seconds)) return "–";
  if (seconds < 0.0005) return "0 s";
  if (seconds < 1) return `${Math.max(1, Math.round(seconds * 1000))} ms`;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
  if (seconds < 172800) return `${Math.floor(seconds / 3600)} h ${Math.round(seconds % 3600 / 60)} min`;
  return `${Math.round(seconds / 86400)} d`;
}

const now = () => Date.now() / 1000 + skew;

function ago(at) {
  const seconds = now() - at;
  return seconds < 1 ? "just now" : seconds < 90 ? `${Math.floor(seconds)} s ago` : `${span(seconds)} ago`;
}

const REASONS = {
  "earliest-finish": "finishes it first",
  "fastest-idle": "the best that is free",
  "random-by-speed": "drawn by speed",
  "better-of-two": "the better of two",
  "better-worker-soon": "a better worker is free soon",
  "model-warm-soon": "its model is warm soon",
  "all-busy": "all are busy",
  "none-eligible": "no worker can do it",
  "no-worker": "there is no worker",
  "later": "others go before it",
  "tenant-limit": "its tenant's limit is reached",
  "too-many-waiting": "too many wait already",
  "between-polls": "its caller comes again",
};
const MISHAPS = {
  full: ["turned a request away", "warn"],
  failed: ["did not do a request", "bad"],
  error: ["has an error", "bad"],
  silent: ["is silent", "bad"],
  gone: ["is gone", "warn"],
  recovered: ["is well again", "good"],
};
const REFUSALS = {full: "full", failed: "failed", unreachable: "out of reach", unknown: "let down"};
const EXCLUDED = {
  "not-ready": "not ready", "no-speed": "without a speed", refused: "refused it lately", vram: "too little memory",
  model: "without its model", dialect: "not speaking its API", full: "full", resting: "kept free for release",
};
const STATES = {waiting: "Waiting", leased: "Running", done: "Done", dead: "Dead letters", cancelled: "Cancelled"};

// -- lists of rows that are made once and changed in place ------------------------------------------------------------

class Rows {
  constructor(parent, make) {
    this.parent = parent;
    this.make = make;
    this.known = new Map();
  }

  show(items, keyOf) {
    const keys = new Set();
    let place = this.parent.firstElementChild;
    for (const item of items) {
      const key = keyOf(item);
      keys.add(key);
      let row = this.known.get(key);
      if (!row) this.known.set(key, row = this.make(item));
      if (row.item !== item) {
        row.item = item;
        row.update(item);
      }
      if (row.node === place) place = place.nextElementSibling;
      else this.parent.insertBefore(row.node, place);
    }
    for (const [key, row] of this.known) {
      if (!keys.has(key)) {
        row.node.remove();
        this.known.delete(key);
      }
    }
    this.tick();
  }

  tick() {
    for (const row of this.known.values()) row.tick?.(row.item);
  }
}

// -- tiles ------------------------------------------------------------------------------------------------------------

const tiles = {};
for (const [id, title] of [["ready", "Workers ready"], ["load", "Load"], ["waiting", "Waiting"], ["running", "At work"],
                           ["done", "Done"], ["failed", "Failed or refused"]]) {
  const value = el("dd", {id: `tile-${id}`});
  tiles[id] = value;
  $("tiles").append(el("div", {}, el("dt", {text: title}), value));
}

function tile(id, value, rest = "") {
  const text = `${value}${rest && " "}${rest}`;
  if (tiles[id].textContent !== text) tiles[id].replaceChildren(value, ...(rest ? [" ", el("small", {text: rest})] : []));
}

function showTiles() {
  const all = fleet.names.map((name) => fleet.endpoints[name]);
  const sum = (of) => all.reduce((total, one) => total + of(one), 0);
  const capacity = sum((one) => one.capacity), rate = sum((one) => one.rate);
  tile("ready", number(sum((one) => one.ready)), `of ${number(sum((one) => one.workers))}`);
  tile("load", capacity > 0 ? percent(rate / capacity) : "–", `${number(Math.round(rate))} of ${number(Math.round(capacity))} units/s`);
  const waits = Math.max(0, ...all.map((one) => one.wait?.likely ?? 0));
  tile("waiting", number(sum((one) => one.waiting)), waits >= 0.05 ? `the next one for ${span(waits)}` :
    all.some((one) => one.waiting && !one.wait) ? "no worker is ready for it" : all.some((one) => one.wait) ? "no wait expected" : "");
  tile("running", number(sum((one) => one.running)), units(sum((one) => one.running_work)));
  const {outcomes, refusals} = fleet.totals;
  const refused = Object.values(refusals).reduce((total, count) => total + count, 0);
  tile("done", number(outcomes.success ?? 0), "since the start");
  const elsewhere = refused - (refusals.failed ?? 0);  // what went wrong in a worker may be the request's own fault
  tile("failed", number((outcomes.error ?? 0) + refused), elsewhere ? `${number(elsewhere)} tried elsewhere` : "");
  tiles.ready.classList.toggle("alert", all.length > 0 && sum((one) => one.ready) === 0);
}

// -- endpoints --------------------------------------------------------------------------------------------------------

const SVG = "http://www.w3.org/2000/svg";

function svg(tag, options) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(options)) made.setAttribute(name, value);
  return made;
}

function draw(graph, points) {
  const [area, limit, line] = graph.children;
  const from = Math.max(now() - 150, points[0]?.at ?? 0), width = Math.max(now() - from, 1);
  const top = 1.15 * Math.max(1e-9, ...points.map((one) => Math.max(one.rate, one.capacity)));
  const x = (at) => (100 * Math.max(at - from, 0) / width).toFixed(2), y = (value) => (40 - 38 * value / top).toFixed(2);
  const seen = points.filter((one) => one.at >= from);
  const last = seen.at(-1) ?? {rate: 0, capacity: 0};
  const path = (of) => "M" + [...seen.map((one) => `${x(one.at)},${y(of(one))}`), `100,${y(of(last))}`].join("L");
  line.setAttribute("d", path((one) => one.rate));
  area.setAttribute("d", `${path((one) => one.rate)}L100,40L0,40Z`);
  limit.setAttribute("d", path((one) => one.capacity));
}

function fact(list, title) {
  const value = el("dd");
  list.append(el("div", {}, el("dt", {text: title}), value));
  return (text, rest = "") => {
    const whole = `${text}${rest && " "}${rest}`;
    if (value.textContent !== whole) value.replaceChildren(text, ...(rest ? [" ", el("small", {text: rest})] : []));
  };
}

const endpoints = new Rows($("endpoints"), ({name}) => {
  const title = el("h3", {text: name}), policy = el("span", {class: "quiet"}), ready = el("span", {class: "quiet"});
  const load = el("b"), of = el("span", {class: "quiet"}), fill = el("i"), tags = el("div", {class: "tags"});
  const bar = el("div", {class: "bar", role: "img"}, fill);
  const graph = svg("svg", {class: "graph", viewBox: "0 0 100 40", preserveAspectRatio: "none", role: "img"});
  graph.append(svg("path", {class: "area"}), svg("path", {class: "limit", fill: "none"}), svg("path", {class: "line"}));
  graph.setAttribute("aria-label", `Offered load of ${name} in the last minutes, against its capacity (dashed)`);
  const list = el("dl", {class: "inline"});
  const [waiting, wait, running, wanted] = ["Waiting", "Expected wait", "At work", "Workers wanted"].map((one) => fact(list, one));
  const scaled = list.lastElementChild;
  const node = el("li", {class: "card panel"}, el("div", {class: "inner"}, el("div", {class: "top"}, title, policy, ready),
    el("div", {}, el("div", {class: "loadline"}, load, of), bar), graph, el("div", {}, list, tags)));
  return {
    node,
    update(one) {
      const share = one.capacity > 0 ? one.rate / one.capacity : one.rate > 0 ? Infinity : 0;
      put(policy, one.policy);
      put(ready, `${number(one.ready)} of ${number(one.workers)} ready`);
      put(load, one.capacity > 0 ? `Load ${percent(share)}` : "No capacity");
      put(of, `${number(Math.round(one.rate))} of ${number(Math.round(one.capacity))} units/s`);
      fillTo(fill, share);
      bar.classList.toggle("hot", share > 0.85 && share <= 1);
      bar.classList.toggle("over", share > 1);
      bar.setAttribute("aria-label", `Load ${Number.isFinite(share) ? percent(share) : "without capacity"}`);
      waiting(number(one.waiting), one.waiting ? units(one.waiting_work) : "");
      wait(!one.wait ? "–" : one.wait.likely < 0.05 ? "none" : span(one.wait.likely),
        !one.wait ? "no worker" : one.wait.high >= 0.1 ? `up to ${span(one.wait.high)}` : "");
      running(number(one.running), one.foreign ? `+ ${units(one.foreign)} of others` : one.running ? units(one.running_work) : "");
      scaled.hidden = !one.desired;
      if (one.desired) wanted(number(one.desired.workers), `at most ${number(one.max_workers)}`);
      const said = Object.entries(one.conditions).filter(([condition]) => condition !== "ready");
      tags.replaceChildren(...said.map(([condition, count]) =>
        el("span", {class: `tag ${["error", "stale"].includes(condition) ? "bad" : "warn"}`, text: `${number(count)} ${condition}`})),
        ...(one.slow ? [el("span", {class: "tag warn", text: `${number(one.slow)} slow`})] : []));
      tags.hidden = !tags.childElementCount;
    },
    tick(one) {
      draw(graph, fleet.loads.get(one.name) ?? []);
    },
  };
});

// -- workers ----------------------------------------------------------------------------------------------------------

let fastest = 1;

const workers = new Rows($("rows"), (first) => {
  const name = el("span", {text: first.key}), condition = el("span"), kind = el("div", {class: "sub"}), trouble = el("div", {class: "sub trouble"});
  const title = el("th", {scope: "row", role: "rowheader"}, el("div", {class: "name"}, el("span", {class: "dot"}), name),
    el("div", {class: "sub"}, condition), kind, trouble);
  const speed = el("b"), pace = el("span", {class: "sub"}), fill = el("i"), score = el("div", {class: "sub"}), slow = el("span", {class: "tag warn"});
  const bar = el("div", {class: "bar", "aria-hidden": "true"}, fill);
  const cells = el("div", {class: "cells", "aria-hidden": "true"}), work = el("div", {class: "sub"}), free = el("span"), count = el("span");
  work.append(count, free);
  const models = el("div", {class: "tags"});
  const [served, failed, heard] = ["Done", "Failed", "Heard"].map((label) => el("td", {role: "cell", class: "number", "data-label": label}));
  const node = el("tr", {role: "row"}, title,
    el("td", {role: "cell", class: "speed"}, speed, " ", pace, " ", slow, bar, score),
    el("td", {role: "cell", class: "work"}, cells, work),
    el("td", {role: "cell", class: "models"}, models), served, failed, heard);
  const shares = [];
  let shape = "";
  return {
    node,
    update(one) {
      node.className = `${one.condition}${one.slow !== null ? " slow" : ""}`;
      put(condition, `${one.condition}${one.ours ? "" : " · stock worker"}${one.price ? ` · $${one.price.toFixed(2)}/h` : ""}`);
      put(kind, one.gpu || one.group);
      put(trouble, one.trouble);
      put(speed, one.speed ? number(one.speed) : "–");
      put(pace, one.speed ? "units/s" : "");
      put(score, one.score ? `score ${number(one.score)}${Math.abs(one.factor - 1) >= 0.005 ? ` × ${one.factor.toFixed(2)} as measured` : ""}` : "not measured yet");
      slow.hidden = one.slow === null;
      put(slow, one.slow === null ? "" : `slow: ${percent(one.slow)} of its kind`);
      this.cells(one);
      put(served, number(one.served));
      put(failed, number(one.failed));
      failed.classList.toggle("trouble", one.failed > 0);
      const warm = one.warm ?? [];
      const said = JSON.stringify([warm, one.warm_count, one.installed]);
      if (models.dataset.said !== said) {
        models.dataset.said = said;
        const further = one.warm_count - warm.length;
        models.replaceChildren(...warm.map((model) => el("span", {class: "tag", title: model, text: model.replace(/\.(safetensors|ckpt|gguf|pt|pth)$/, "")})),
          ...(further > 0 ? [el("span", {class: "tag", text: `+ ${further}`})] : []),
          ...(warm.length ? [] : [el("span", {class: "sub", text: one.warm ? "none" : one.installed === null ? "not told" : `${number(one.installed)} installed`})]));
      }
    },
    cells(one) {
      const places = Math.min(Math.max(one.slots, one.held_count, 1), 8);
      const next = `${places}/${one.held.length}/${one.foreign > 0}`;
      if (shape !== next) {
        shape = next;
        shares.length = 0;
        cells.replaceChildren();
        for (let place = 0; place < places; place++) {
          const share = el("i"), taken = place < one.held.length;
          cells.append(el("div", {class: taken ? "cell taken" : "cell"}, share));
          if (taken) shares.push(share);
        }
        if (one.foreign > 0) cells.append(el("div", {class: "cell foreign", title: "Work that this router did not give it"}));
      }
      const held = one.held_count ? `${one.held_count} of ${Math.max(one.slots, one.held_count)}` : one.foreign ? "others' work" : one.condition === "ready" ? "idle" : "nothing";
      put(count, `${held}${one.foreign && one.held_count ? ` + ${units(one.foreign)} of others` : ""}`);
    },
    tick(one) {
      const moment = now();
      fillTo(fill, one.speed / fastest);
      shares.forEach((share, place) => {
        const {start, finish} = one.held[place];
        fillTo(share, (moment - start) / Math.max(finish - start, 0.01));
      });
      const left = one.free_at === null ? 0 : one.free_at - moment;
      put(free, one.free_at === null ? "" : left >= 1 ? ` · free in ${span(left)}` : " · free any moment");
      put(heard, ago(one.heard_at));
    },
  };
});

function showWorkers() {
  const shown = fleet.order.map((key) => fleet.workers.get(key)).filter(Boolean);
  fastest = Math.max(1e-9, ...shown.map((one) => one.speed));
  workers.show(shown, (one) => one.key);
  const all = fleet.matching === fleet.known;
  put($("workers-count"), fleet.known ? all ? number(fleet.known) : `${number(fleet.matching)} of ${number(fleet.known)}` : "");
  $("rows").parentElement.hidden = !shown.length;
  $("no-worker").hidden = shown.length > 0;
  if (!shown.length) put($("no-worker"), fleet.known ? "No worker fits. Choose others above." :
    "No worker has reported yet. Start one with the REPORT_ADDR that the router printed when it started.");
  $("more").hidden = fleet.matching <= shown.length;
  put($("more").firstElementChild, `${number(shown.length)} of ${number(fleet.matching)} are shown.`);
  $("more").lastElementChild.hidden = most >= MOST;
}

// -- lists ------------------------------------------------------------------------------------------------------------

function item(request, endpoint) {
  const when = el("span", {class: "when"}), what = el("span", {class: "what"}), side = el("span", {class: "side"});
  const inside = el(request ? "button" : "div", {class: "item"}, when, what, side);
  if (request) {
    inside.type = "button";
    inside.title = "Why?";
    inside.addEventListener("click", () => explain(request, endpoint));
  }
  return {node: el("li", {}, inside), when, what, side};
}

const decisions = new Rows($("decisions"), (one) => {
  const {node, when, what, side} = item(one.id, one.endpoint);
  what.append(el("b", {text: `#${one.id}`}), " → ", el("b", {text: one.worker}), el("span", {class: "quiet", text: ` ${REASONS[one.reason] ?? one.reason}`}),
    ...(one.tenant ? [el("span", {class: "quiet", text: ` · ${one.tenant}`})] : []));
  side.textContent = `${units(one.size)} · waited ${span(one.waited)}`;
  return {node, update() {}, tick: () => put(when, ago(one.at))};
});

const troubles = new Rows($("troubles"), (one) => {
  const {node, when, what} = item(one.request_id, one.endpoint);
  const [said, tone] = MISHAPS[one.mishap] ?? [one.mishap, "warn"];
  what.append(el("b", {text: one.worker}), " ", el("span", {class: `tag ${tone}`, text: said}),
    ...(one.request_id ? [el("span", {class: "quiet", text: ` #${one.request_id}`})] : []),
    ...(one.text ? [el("div", {class: "sub", text: one.text})] : []));
  return {node, update() {}, tick: () => put(when, ago(one.at))};
});

const queue = new Rows($("queue"), (one) => {
  const {node, when, what, side} = item(one.id, one.endpoint);
  what.append(el("b", {text: `#${one.id}`}), el("span", {class: "quiet",
    text: ` ${one.endpoint}${one.tenant ? ` · ${one.tenant}` : ""}${one.priority === "low" ? " · low priority" : ""}`}));
  side.textContent = units(one.size);
  return {node, update() {}, tick: () => put(when, span(Math.max(now() - one.since, 0)))};
});

const letters = new Rows($("letters"), (one) => {
  const {node, when, what, side} = item("", one.endpoint);
  what.append(el("b", {text: one.id}), el("span", {class: "quiet", text: ` ${one.endpoint}${one.tenant ? ` · ${one.tenant}` : ""}`}),
    el("div", {class: "sub", text: one.reason}));
  side.textContent = `${one.attempts} ${one.attempts === 1 ? "attempt" : "attempts"}`;
  return {node, update() {}, tick: () => put(when, one.at ? ago(one.at) : "")};
});

function showLists() {
  decisions.show(fleet.decisions, (one) => one.key);
  $("no-decision").hidden = fleet.decisions.length > 0;
  troubles.show(fleet.troubles, (one) => one.key);
  $("no-trouble").hidden = fleet.troubles.length > 0;
  const refused = Object.entries(fleet.totals.refusals).filter(([, count]) => count);
  const lost = fleet.totals.outcomes.lost ?? 0, errors = fleet.totals.outcomes.error ?? 0;
  put($("counts"), [errors && `${number(errors)} failed for good`, lost && `${number(lost)} lost`,
    ...refused.map(([reason, count]) => `${number(count)} ${REFUSALS[reason] ?? reason}`)].filter(Boolean).join(" · "));
  const waiting = fleet.names.flatMap((name) => fleet.endpoints[name].queue.map((one) => ({...one, endpoint: name})));
  const known = fleet.names.reduce((total, name) => total + fleet.endpoints[name].waiting, 0);
  queue.show(waiting.sort((one, other) => one.since - other.since).slice(0, 8), (one) => `${one.endpoint}/${one.id}`);
  put($("queue-count"), known ? `${number(known)}${known > queue.known.size ? `, the oldest are shown` : ""}` : "");
  $("no-queue").hidden = waiting.length > 0;
  put($("no-queue"), known ? `${number(known)} between two polls; none is held right now.` : "No request waits for a worker.");
  $("jobs-section").hidden = !fleet.jobs;
  if (fleet.jobs) {
    $("jobs").replaceChildren(...Object.entries(STATES).filter(([state]) => fleet.jobs.counts[state])
      .map(([state, title]) => el("div", {}, el("dt", {text: title}), el("dd", {text: number(fleet.jobs.counts[state])}))));
    letters.show(fleet.jobs.dead, (one) => one.id);
  }
}

// -- what comes in ----------------------------------------------------------------------------------------------------

let numbered = 0;

function take(news) {
  const first = news.kind === "snapshot";
  skew = first ? news.at - Date.now() / 1000 : Math.max(skew, news.at - Date.now() / 1000);
  if (first) {
    fleet.workers.clear();
    fleet.endpoints = {};
    fleet.decisions = [];
    fleet.troubles = [];
  }
  for (const name of ["names", "order", "matching", "known", "totals", "jobs", "degraded", "replica"])
    if (name in news) fleet[name] = news[name];
  for (const one of news.workers ?? []) fleet.workers.set(one.key, one);
  if (news.order) {
    const kept = new Set(news.order);
    for (const key of fleet.workers.keys()) if (!kept.has(key)) fleet.workers.delete(key);
  }
  for (const [name, facts] of Object.entries(news.endpoints ?? {})) {
    fleet.endpoints[name] = facts;
    const points = fleet.loads.get(name) ?? [];
    if (!points.length || news.at - points.at(-1).at >= 1) points.push({at: news.at, rate: facts.rate, capacity: facts.capacity});
    fleet.loads.set(name, points.slice(-KEPT.points));
  }
  if (news.names) for (const name of fleet.loads.keys()) if (!news.names.includes(name)) fleet.loads.delete(name);
  for (const name of ["decisions", "troubles"]) {
    const fresh = news[name] ?? [];
    for (const one of fresh) one.key = numbered++;
    fleet[name] = [...fresh, ...fleet[name]].slice(0, KEPT[name]);
  }
  show();
}

let shown = false;

function show() {
  if (shown) return;
  shown = true;
  requestAnimationFrame(() => {
    shown = false;
    $("fleet").hidden = false;
    $("door").hidden = true;
    put($("about"), `router ${fleet.replica}`);
    $("degraded").hidden = !fleet.degraded;
    put($("degraded"), fleet.degraded ? `The store is down: requests are routed from what is known, and nothing is accepted that must be recorded. ${fleet.degraded}` : "");
    showTiles();
    endpoints.show(fleet.names.map((name) => fleet.endpoints[name]), (one) => one.name);
    $("no-endpoint").hidden = fleet.names.length > 0;
    showNames();
    showWorkers();
    showLists();
  });
}

function showNames() {
  const choice = $("lens").elements.endpoint, said = JSON.stringify(fleet.names);
  if (choice.dataset.said === said) return;
  const chosen = choice.value;
  choice.dataset.said = said;
  choice.replaceChildren(el("option", {value: "", text: "All endpoints"}), ...fleet.names.map((name) => el("option", {value: name, text: name})));
  choice.value = fleet.names.includes(chosen) ? chosen : "";
  choice.hidden = fleet.names.length < 2;
}

setInterval(() => {
  if (document.hidden) return;
  for (const rows of [endpoints, workers, decisions, troubles, queue, letters]) rows.tick();
}, 1000);

// -- the connection ---------------------------------------------------------------------------------------------------

let calls = null, attempts = 0, again = 0, heardAt = 0;

function say(state, text) {
  $("link").dataset.state = state;
  put($("link"), text);
  document.body.classList.toggle("stale", state === "lost");
}

function headers() {
  const key = sessionStorage.getItem(KEY);
  return key ? {Authorization: `Bearer ${key}`} : {};
}

async function connect() {
  clearTimeout(again);
  calls?.abort();
  const call = calls = new AbortController();
  const query = new URLSearchParams(new FormData($("lens")));
  query.set("most", most);
  heardAt = Date.now();
  try {
    const answer = await fetch(`page/events?${query}`, {headers: headers(), signal: call.signal, cache: "no-store"});
    if (answer.status === 401 || answer.status === 403) return await lock(answer);
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    await listen(answer.body.getReader());
  } catch (error) {
    if (call.signal.aborted && call !== calls) return;
  }
  if (call === calls) comeBack();
}

async function listen(reader) {
  const decoder = new TextDecoder();
  let rest = "";
  for (;;) {
    const {done, value} = await reader.read();
    if (done) return;
    heardAt = Date.now();
    const frames = (rest + decoder.decode(value, {stream: true})).split("\n\n");
    rest = frames.pop();
    for (const frame of frames) {
      const data = frame.split("\n").filter((line) => line.startsWith("data: ")).map((line) => line.slice(6)).join("\n");
      if (!data) continue;
      const news = JSON.parse(data);
      if (news.kind === "stopping") return;
      attempts = 0;
      say("live", "Live");
      take(news);
    }
  }
}

function comeBack() {
  const pause = Math.min(10, 0.5 * 2 ** attempts++);
  say("lost", attempts > 1 ? `Connection lost, next try in ${span(pause)}` : "Connection lost, trying again");
  again = setTimeout(connect, 1000 * pause);
}

async function lock(answer) {
  const wrong = sessionStorage.getItem(KEY) !== null;
  sessionStorage.removeItem(KEY);
  const said = await answer.json().catch(() => ({}));
  say("locked", "A key is needed");
  $("fleet").hidden = true;
  $("degraded").hidden = true;
  $("door").hidden = false;
  put($("refused"), wrong ? answer.status === 403 ? "This key is good, but not the operator's." : "This key is not known here." :
    answer.status === 403 ? said.message ?? "" : "");
  $("key").value = "";
  $("key").focus();
}

$("door").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(KEY, $("key").value.trim());
  say("connecting", "Connecting…");
  connect();
});

setInterval(() => {
  if ($("link").dataset.state === "live" && Date.now() - heardAt > SILENT_MS) connect();
}, 5000);
addEventListener("online", () => connect());

let hiding = 0;
document.addEventListener("visibilitychange", () => {
  clearTimeout(hiding);
  if (document.hidden) {
    hiding = setTimeout(() => {
      const call = calls;
      calls = null;
      call?.abort();
      clearTimeout(again);
      say("connecting", "Paused");
    }, HIDDEN_MS);
  } else if (calls === null) connect();
});

// -- choosing workers -------------------------------------------------------------------------------------------------

let typing = 0;
$("lens").addEventListener("submit", (event) => event.preventDefault());
$("lens").addEventListener("input", (event) => {
  clearTimeout(typing);
  most = STEP;
  typing = setTimeout(connect, event.target.name === "q" ? 250 : 0);
});
$("more").lastElementChild.addEventListener("click", () => {
  most = Math.min(most * 2, MOST);
  connect();
});

// -- why --------------------------------------------------------------------------------------------------------------

const COLUMNS = [["wait_s", "wait"], ["transfer_s", "transfer"], ["swap_s", "load models"], ["run_s", "run"],
                 ["cost_s", "price"], ["loss_s", "pushed out"], ["total_s", "total"]];

async function explain(request, endpoint) {
  $("why-title").textContent = `Request #${request}`;
  for (const id of ["why-facts", "why-table"]) $(id).replaceChildren();
  put($("why-excluded"), "");
  put($("why-text"), "Asking…");
  $("why").showModal();
  try {
    const answer = await fetch(`explain/${encodeURIComponent(request)}`, {headers: headers(), cache: "no-store"});
    const told = await answer.json();
    if (!answer.ok) throw new Error(told.message ?? `status ${answer.status}`);
    showWhy(told, endpoint);
  } catch (error) {
    put($("why-text"), `It can't be explained: ${error.message}`);
  }
}

function showWhy(told, endpoint) {
  $("why-text").textContent = told.text;
  const facts = [["Worker", told.worker ?? "none yet"], ["Endpoint", endpoint], ["Policy", told.policy], ["Load then", percent(told.load)],
                 ["Use of slow workers", percent(told.theta)], ["Workers", number(told.workers)]];
  $("why-facts").replaceChildren(...facts.map(([title, value]) => el("div", {}, el("dt", {text: title}), el("dd", {text: value}))));
  if (told.candidates.length) {
    const used = COLUMNS.filter(([name]) => name === "total_s" || told.candidates.some((one) => one[name]));
    const head = el("tr", {}, el("th", {scope: "col", text: "Candidate"}), el("th", {scope: "col", text: "state"}),
      ...used.map(([, title]) => el("th", {scope: "col", class: "number", text: title})));
    const rows = told.candidates.map((one) => el("tr", one.worker === told.worker ? {class: "chosen"} : {},
      el("th", {scope: "row", text: one.worker + (one.worker === told.worker ? " ✓" : "")}), el("td", {text: one.idle ? "free" : "busy"}),
      ...used.map(([name]) => el("td", {class: "number", text: span(one[name])}))));
    const caption = el("caption", {class: "unseen", text: "Expected seconds of each candidate, the best first"});
    $("why-table").replaceChildren(el("table", {}, caption, el("thead", {}, head), el("tbody", {}, ...rows)));
  }
  const excluded = Object.entries(told.excluded).map(([reason, count]) => `${number(count)} ${EXCLUDED[reason] ?? reason}`);
  const others = told.workers - told.candidates.length;
  put($("why-excluded"), excluded.length ? `No candidates: ${excluded.join(", ")}.` :
    others > 0 && told.candidates.length ? `${number(others)} other ${others === 1 ? "worker" : "workers"} could not do it, or not earlier.` : "");
}

$("why").addEventListener("click", (event) => {
  if (event.target === $("why")) $("why").close();
});

connect();
