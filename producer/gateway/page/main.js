// The page: what its parts tell each other.
import { Chat } from "./chat.js";
import { composer } from "./composer.js";
import { byId, say } from "./dom.js";
import { Models } from "./models.js";
import { Queue } from "./queue.js";
import { Store } from "./store.js";
import { Transcript } from "./transcript.js";
import { headers } from "./api.js";

const store = new Store();
const models = new Models(store);
const transcript = new Transcript(() => {
  chat.again();
  byId("text").focus();
});
const setBusy = composer(store, { send: (text) => chat.send(text), stop: () => chat.stop() });

/** The transcript, and the composer that has to know when an answer is made. */
const view = {
  show: (messages) => transcript.show(messages),
  add: (message) => transcript.add(message),
  dropLast: () => transcript.dropLast(),
  begin: (message, turn) => { transcript.begin(message, turn); setBusy(true); },
  append: (text, reasoning) => transcript.append(text, reasoning),
  end: (message) => { transcript.end(message); setBusy(false); },
  note: (message) => transcript.note(message),
};
const chat = new Chat(store, view, models);

let failures = 0;

new Queue((board, why) => {
  failures = board ? 0 : failures + 1;
  if (failures === 1) return;  // one is nothing to speak of
  byId("notice").hidden = board !== null;
  say(byId("notice"), board ? "" : why ?? "The gateway does not answer. This page asks again by itself.");
  document.body.classList.toggle("is-away", board === null);
  if (!board) return;
  models.hear(board).catch(() => {});  // asked again with the next board
  tellWait(board);
}, () => new Set(store.messages.map((message) => message.job)));

/** Of an answer of which nothing is there: how it stands. */
function tellWait({ jobs }) {
  const message = transcript.waitingFor;
  if (!message) return;
  const job = jobs.find(({ id }) => id === message.job);
  const line = jobs.filter(({ state, model }) => state === "queued" && model === job?.model);
  const before = line.indexOf(job);
  if (!job || job.state === "queued") transcript.wait(before > 0 && !headers() ? `waiting, ${before} before it` : "waiting for a worker");
  else transcript.wait(job.state === "paused" ? "paused: a job of a higher priority goes first" : "reading the prompt");
}

byId("new-chat").onclick = () => {
  chat.clear();
  byId("text").focus();
};
for (const button of document.querySelectorAll("[data-show]")) {
  button.onclick = () => {
    document.body.dataset.view = button.dataset.show;
    for (const each of document.querySelectorAll("[data-show]")) each.ariaPressed = String(each === button);
  };
}
