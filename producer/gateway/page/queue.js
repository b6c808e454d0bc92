// The queue as it moves: asked each second while the page is seen, and told to whoever listens.
import { get } from "./api.js";
import { byId, el, say } from "./dom.js";
import { JobList } from "./jobs.js";
import { count, duration, rate } from "./words.js";

const EVERY_MS = 1000;
const TRACE = 120;

export class Queue {
  #jobs = new JobList(byId("jobs"));
  #rates = [];

  /** hear: is told of each board, and of null where no gateway answers.  ownJobs: ids of those of the chat. */
  constructor(hear, ownJobs) {
    this.hear = hear;
    this.ownJobs = ownJobs;
    this.#keepAsking();
  }

  async #keepAsking() {
    for (;;) {
      if (document.hidden) await new Promise((seen) => document.addEventListener("visibilitychange", seen, { once: true }));
      let board = null;
      let why = null;
      try {
        board = await get("v1/queue");
        this.#show(board);
      } catch (error) {
        why = error.message && error.code ? error.message : null;  // the gateway's own word, or nobody is there
      }
      this.hear(board, why);
      await new Promise((go) => setTimeout(go, EVERY_MS));
    }
  }

  #show({ models, jobs, suspended }) {
    const sum = (name) => models.reduce((total, model) => total + model[name], 0);
    const perSecond = sum("tokens_per_second");
    say(byId("running-count"), count(sum("running")));
    say(byId("waiting-count"), count(sum("queued")));
    say(byId("rate"), perSecond ? rate(perSecond) : "0");
    const open = sum("running") + sum("queued");
    say(byId("queue-count"), open ? count(open) : "");
    document.title = open ? `${count(open)} · genqueue` : "genqueue";
    this.#trace(perSecond);
    showWorkers(models, suspended);
    this.#jobs.show(models, jobs, this.ownJobs());
  }

  #trace(perSecond) {
    this.#rates = [...this.#rates, perSecond].slice(-TRACE);
    const most = Math.max(...this.#rates, 1);
    const first = TRACE - this.#rates.length;
    const points = this.#rates.map((each, place) => `${first + place},${(27 - (each / most) * 25).toFixed(1)}`);
    byId("trace").firstElementChild.setAttribute("points", points.join(" "));
  }
}

function showWorkers(models, suspended) {
  const rows = models.flatMap((model) => model.workers.map((worker) => workerRow(model, worker, suspended)));
  const none = el("li", { className: "nothing", textContent: "None is there. Jobs wait until one is." });
  const list = byId("workers");
  const made = rows.length ? rows : [none];
  // As they are, as long as nothing has changed: whoever has marked a name keeps the mark.
  if (list.textContent !== made.map((row) => row.textContent).join("")) list.replaceChildren(...made);
}

function workerRow(model, worker, suspended) {
  const state = worker.model_state === "loading" ? "loading" : suspended ? "suspended" : worker.state ?? "ready";
  const pace = worker.job_seconds ? `${duration(worker.job_seconds)} a job` : "";
  return el(
    "li", { className: `worker ${/^[a-z]+$/.test(state) ? state : ""}` },
    el("span", { className: "name", textContent: worker.name, title: worker.name }),
    el("span", { className: "what", textContent: [model.model, worker.device, pace].filter(Boolean).join(" · ") }),
    el("span", { className: "state", textContent: state }),
  );
}
