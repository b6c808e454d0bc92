// What has happened to one job, and when: a bar of where its time went, and its events. Asked again while it goes on.
import { get } from "./api.js";
import { el } from "./dom.js";
import { clock, duration, rate, tokens } from "./words.js";

const AGAIN_MS = 1000;
const ENDED = new Set(["finished", "failed", "cancelled"]);
const PARTS = [
  ["waited", "waited"], ["ran", "has run for"], ["read", "read the prompt"], ["wrote", "wrote"], ["parked", "paused"],
];

export class Timeline {
  #timer = null;
  #isClosed = false;

  constructor(place, job) {
    this.place = place;
    this.job = job;
    this.#show();
  }

  close() {
    this.#isClosed = true;
    clearTimeout(this.#timer);
    this.place.replaceChildren();
  }

  async #show() {
    let found = null;
    let made;
    try {
      found = await get(`v1/queue/${encodeURIComponent(this.job)}`);
      made = [bar(found), events(found), el("p", { className: "id", textContent: found.id })];
    } catch (error) {
      made = [el("p", { textContent: error.code === "no_such_job" ? "It is not kept any more." : "Nobody answers." })];
    }
    if (this.#isClosed) return;
    this.place.replaceChildren(...made);
    if (found && !ENDED.has(found.state)) this.#timer = setTimeout(() => this.#show(), AGAIN_MS);
  }
}

/** Seconds of each part, as far as they are known. */
function spent({ queued_at: queued, started_at: started, ended_at: ended, timings }) {
  const now = Date.now() / 1000;
  const waited = queued ? Math.max(0, (started ?? ended ?? now) - queued) : 0;
  if (!timings) return { waited, ran: started ? Math.max(0, (ended ?? now) - started) : 0 };
  const [read, wrote, parked] = [timings.time_to_first_token_ms, timings.decode_ms, timings.parked_ms];
  return { waited, read: (read ?? 0) / 1000, wrote: (wrote ?? 0) / 1000, parked: (parked ?? 0) / 1000 };
}

function bar(job) {
  const seconds = spent(job);
  const shown = PARTS.filter(([name]) => seconds[name] >= 0.05);
  const said = shown.map(([name, words]) => `${words} ${duration(seconds[name])}`);
  const parts = shown.map(([name]) => {
    const part = el("span", { className: name });
    part.style.flexGrow = seconds[name];
    return part;
  });
  const legend = shown.map(([name], place) => el("li", { className: name, textContent: said[place] }));
  return el("div", {}, el("div", { className: "bar", ariaHidden: "true" }, ...parts), el("ul", { className: "legend" }, ...legend));
}

function events(job) {
  const list = el("ol", { className: "events" });
  const add = (at, words) => list.append(el("li", {}, el("time", { textContent: at ? clock(at) : "" }), el("span", { textContent: words })));
  if (job.queued_at) add(job.queued_at, `queued for ${job.model}${job.priority === "normal" ? "" : `, ${job.priority} priority`}`);
  const last = job.attempts.at(-1);
  for (const attempt of job.attempts) {
    const after = attempt.resumed_tokens ? `goes on after ${tokens(attempt.resumed_tokens)}` : `has taken it: a prompt of ${tokens(attempt.prompt_tokens)}`;
    add(attempt === last ? job.started_at : null, `${attempt.worker} ${after}`);
  }
  if (ENDED.has(job.state)) add(job.ended_at, endOf(job));
  else if (job.tokens) add(null, `${job.state}: ${tokens(job.tokens)} so far`);
  else add(null, job.state);
  return list;
}

function endOf({ state, tokens: made, timings, error, finish_reason: reason }) {
  const speed = timings?.tokens_per_second ? `${rate(timings.tokens_per_second)} tokens/s` : null;
  const cut = reason === "length" ? "cut off at its longest" : null;
  return [state, error, made ? tokens(made) : null, speed, cut].filter(Boolean).join(", ");
}
