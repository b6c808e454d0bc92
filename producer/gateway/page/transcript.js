// The conversation on the screen. Each message is one element, and an answer that is made one text that grows.
import { byId, el, say } from "./dom.js";
import { prose } from "./prose.js";
import { Timeline } from "./timeline.js";
import { rate, tokens } from "./words.js";

const NEAR_PX = 80;

export class Transcript {
  #list = byId("transcript");
  #scroll = byId("scroll");
  #answer = null;
  #isAtEnd = true;

  /** again: asks once more what has failed. */
  constructor(again) {
    this.again = again;
    this.#scroll.onscroll = () => {
      const { scrollHeight, scrollTop, clientHeight } = this.#scroll;
      this.#isAtEnd = scrollHeight - scrollTop - clientHeight < NEAR_PX;
    };
    // Whoever is at the end stays there, while the answer grows or the window shrinks.
    const observer = new ResizeObserver(() => this.#isAtEnd && this.#toEnd());
    observer.observe(this.#scroll);
    observer.observe(this.#list);
  }

  show(messages) {
    this.#list.replaceChildren(...messages.map((message) => this.#made(message)));
    byId("empty").hidden = messages.length > 0;
    this.#toEnd();
  }

  add(message) {
    byId("empty").hidden = true;
    this.#list.append(this.#made(message));
    this.#toEnd();
  }

  dropLast() {
    this.#list.lastElementChild.remove();
  }

  /** An answer is being made. */
  begin(message, turn) {
    const item = this.#made(message, true);
    this.#list.lastElementChild.replaceWith(item);
    byId("log").ariaBusy = "true";  // a screen reader reads it once it is whole
    item.classList.add("is-made");
    this.#answer = { item, turn, message };
    this.wait("");
  }

  /** Where it stands, as long as nothing of it is there. */
  wait(words) {
    if (this.#answer) say(this.#answer.item.querySelector(".note"), words);
  }

  get waitingFor() {
    const answer = this.#answer;
    return answer && !answer.message.content && !answer.message.reasoning ? answer.message : null;
  }

  append(text, reasoning) {
    const { item } = this.#answer;
    if (text || reasoning) this.wait("");
    if (reasoning) {
      item.querySelector(".thought").hidden = false;
      item.querySelector(".thought p").firstChild.appendData(reasoning);
    }
    if (text) {
      item.querySelector(".text").firstChild.appendData(text);
      say(item.querySelector(".thought summary"), "Thought");
    }
  }

  end(message) {
    const before = this.#list.lastElementChild;
    const item = this.#made(message);
    item.querySelector(".thought").open = before.querySelector(".thought").open;
    before.replaceWith(item);
    byId("log").ariaBusy = "false";
    this.#answer = null;
  }

  /** More is known of the last answer. */
  note(message) {
    const note = this.#list.lastElementChild?.querySelector(".note");
    if (note) say(note, noteOf(message));
  }

  /** isMade: it grows still, as one text. */
  #made(message, isMade = false) {
    const { role, content, reasoning, error, job } = message;
    if (role === "user") return el("li", { className: "user" }, el("p", { className: "text", textContent: content }));
    const text = el("div", { className: "text" }, ...(isMade ? [document.createTextNode(content)] : prose(content)));
    const thought = el(
      "details", { className: "thought", hidden: !reasoning },
      el("summary", { textContent: isMade && !content ? "Thinking…" : "Thought" }), el("p", {}, document.createTextNode(reasoning ?? "")),
    );
    const note = el("span", { className: "note", textContent: noteOf(message) });
    const foot = el("div", { className: "foot" }, note, ...(content ? [copyButton(content)] : []), ...(job ? timelineButton(job) : []));
    return el("li", { className: "assistant" }, thought, text, error ? this.#failed(error) : null, foot);
  }

  #failed(error) {
    const about = [error.code, error.param && `in ${error.param}`].filter(Boolean).join(", ");
    return el(
      "div", { className: "error", role: "alert" },
      el("p", { textContent: error.message ?? "It has failed." }),
      el("p", { className: "code", textContent: about }),
      el("button", { type: "button", textContent: "Ask again", onclick: this.again }),
    );
  }

  #toEnd() {
    this.#scroll.scrollTop = this.#scroll.scrollHeight;
  }
}

function noteOf({ note, tokens: made, tokensPerSecond, reason }) {
  const cut = reason === "length" ? "cut off: the longest answer is set in Options" : null;
  const speed = tokensPerSecond ? `${rate(tokensPerSecond)} tokens/s` : null;
  return [note, made === undefined ? null : tokens(made), speed, cut].filter(Boolean).join(" · ");
}

function copyButton(content) {
  const button = el("button", { type: "button", textContent: "Copy" });
  button.onclick = async () => {
    try {
      await navigator.clipboard.writeText(content);
      say(button, "Copied");
    } catch {
      say(button, "Not allowed here");  // by plain HTTP from elsewhere
    }
    setTimeout(() => say(button, "Copy"), 1500);
  };
  return button;
}

/** A button, and the place where it opens the timeline of the answer's job. */
function timelineButton(job) {
  const place = el("div", { className: "timeline" });
  const button = el("button", { type: "button", textContent: "Timeline", ariaExpanded: "false" });
  let timeline = null;
  button.onclick = () => {
    if (timeline) timeline.close();
    timeline = timeline ? null : new Timeline(place, job);
    button.ariaExpanded = String(timeline !== null);
  };
  return [button, place];
}
