// The conversation, kept in this tab's storage so that it outlives a reload; and the answer that is being made.

const NAME = "genqueue.chat";
const SOON_MS = 300;

/** messages: {role, content, reasoning, note, error, job}.  turn: the answer that is being made; null where none is.
 * Text and cursor of an answer are written together, so that it goes on exactly where it was. */
export class Store {
  #timer = null;

  constructor() {
    const empty = { messages: [], turn: null, settings: { model: "", system: "", temperature: "", maxTokens: "" } };
    Object.assign(this, empty, read());
    addEventListener("pagehide", () => this.save());
  }

  save() {
    clearTimeout(this.#timer);
    this.#timer = null;
    const { messages, turn, settings } = this;
    try {
      sessionStorage.setItem(NAME, JSON.stringify({ messages, turn, settings }));
    } catch { /* longer than what a browser keeps: then it is not there after a reload */ }
  }

  saveSoon() {
    this.#timer ??= setTimeout(() => this.save(), SOON_MS);
  }
}

function read() {
  try {
    return JSON.parse(sessionStorage.getItem(NAME));
  } catch {
    return null;
  }
}
