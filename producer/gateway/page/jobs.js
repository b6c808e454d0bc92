// The jobs of the queue, in the order in which they come: each keeps its row, in which only what has changed is set.
import { el, say } from "./dom.js";
import { Timeline } from "./timeline.js";
import { count, duration, rate, short, tokens } from "./words.js";

const ENDED_KEPT = 50;
const GROUPS = [
  { title: "Running", states: ["running", "paused"], total: (model) => model.running, none: "Nothing runs." },
  { title: "Waiting", states: ["queued", "deferred", "scheduled"], total: (model) => model.queued, none: "Nothing waits." },
  { title: "Done", states: ["finished", "failed", "cancelled"], total: (model) => model.finished + model.failed + model.cancelled, none: "Nothing has ended lately." },
];

export class JobList {
  #groups;
  #rows = new Map();
  #ended = new Map();

  constructor(place) {
    this.#groups = GROUPS.map((group) => {
      const total = el("span", { className: "total" });
      const list = el("ol", { className: "jobs" });
      const rest = el("p", { className: "nothing" });
      place.append(el("section", {}, el("h2", {}, `${group.title} `, total), list, rest));
      list.onkeydown = walk;
      return { ...group, list, rest, count: total };
    });
  }

  /** own: ids of the jobs of this page's chat. */
  show(models, jobs, own) {
    const known = this.#withEnded(jobs);
    const there = new Set(known.map((job) => job.id));
    for (const [id, row] of this.#rows) if (!there.has(id)) this.#drop(id, row);
    for (const group of this.#groups) {
      const shown = known.filter((job) => group.states.includes(job.state));
      const total = models.reduce((sum, model) => sum + group.total(model), 0);
      say(group.count, total ? count(total) : "");
      const hidden = group.title === "Done" ? 0 : Math.max(0, total - shown.length);
      say(group.rest, shown.length ? (hidden ? `and ${count(hidden)} more` : "") : total ? `${count(total)}, of others` : group.none);
      this.#place(group.list, shown, own);
    }
  }

  /** Those that have ended stay for a while after the gateway has other ones to tell of. */
  #withEnded(jobs) {
    const now = Date.now() / 1000;
    const going = jobs.filter((job) => !GROUPS[2].states.includes(job.state));
    for (const job of jobs) if (GROUPS[2].states.includes(job.state)) this.#ended.set(job.id, { ...job, at: now - (job.since_s ?? 0) });
    for (const job of going) this.#ended.delete(job.id);
    const newest = [...this.#ended.values()].sort((one, other) => other.at - one.at).slice(0, ENDED_KEPT);
    this.#ended = new Map(newest.map((job) => [job.id, job]));
    return [...going, ...newest.map((job) => ({ ...job, since_s: now - job.at }))];
  }

  #place(list, jobs, own) {
    let before = null;
    for (const job of jobs) {
      const row = this.#rows.get(job.id) ?? this.#add(job.id);
      row.set(job, own.has(job.id));
      const next = before ? before.nextSibling : list.firstChild;
      if (row.item !== next) list.insertBefore(row.item, next);
      before = row.item;
    }
  }

  #add(id) {
    const row = new Row(id);
    this.#rows.set(id, row);
    return row;
  }

  #drop(id, row) {
    row.close();
    row.item.remove();
    this.#rows.delete(id);
  }
}

class Row {
  #timeline = null;
  #place = el("div", { className: "timeline" });
  #state = el("span", { className: "unseen" });
  #about = el("span", { className: "about" });
  #tokens = el("span", { className: "tokens" });
  #time = el("span", { className: "time" });

  constructor(id) {
    this.id = id;
    const name = el("span", { className: "name", textContent: short(id), title: id });
    this.button = el("button", { type: "button", ariaExpanded: "false" }, this.#state, name, this.#about, this.#tokens, this.#time);
    this.button.onclick = () => this.#toggle();
    this.item = el("li", {}, this.button, this.#place);
  }

  set(job, isOwn) {
    this.item.classList.toggle("own", isOwn);
    if (this.item.dataset.state !== job.state) this.item.dataset.state = job.state;
    say(this.#state, job.state);
    say(this.#about, [job.model, job.priority && job.priority !== "normal" ? job.priority : "", job.worker].filter(Boolean).join(" · "));
    const speed = job.tokens_per_second ? ` · ${rate(job.tokens_per_second)}/s` : "";
    say(this.#tokens, job.state === "paused" ? "paused" : job.tokens ? `${count(job.tokens)} tok${speed}` : job.phase ?? "");
    say(this.#time, duration(job.since_s === null ? null : Math.floor(job.since_s)).replace(".0", ""));
  }

  close() {
    this.#timeline?.close();
    this.#timeline = null;
    this.button.ariaExpanded = "false";
  }

  #toggle() {
    if (this.#timeline) return this.close();
    this.#timeline = new Timeline(this.#place, this.id);
    this.button.ariaExpanded = "true";
  }
}

/** Up and down go from job to job. */
function walk(event) {
  const step = { ArrowDown: "nextElementSibling", ArrowUp: "previousElementSibling" }[event.key];
  const next = step && event.target.closest(".jobs > li")?.[step];
  if (!next) return;
  event.preventDefault();
  next.firstElementChild.focus();
}
