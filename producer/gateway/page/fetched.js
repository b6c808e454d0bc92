// Server-sent events by fetch, for a gateway that asks for a key: an EventSource sends no headers.
// Source: the HTML standard, Server-sent events.  It does not connect again: `follow` does.

/** As an EventSource of one connection. */
export class FetchedEvents {
  readyState = EventSource.CONNECTING;
  onmessage = null;
  onerror = null;
  #aborting = new AbortController();

  constructor(url, headers) {
    this.#read(url, headers);
  }

  close() {
    this.readyState = EventSource.CLOSED;
    this.#aborting.abort();
  }

  async #read(url, headers) {
    try {
      const sent = { accept: "text/event-stream", ...headers };
      const reply = await fetch(url, { headers: sent, signal: this.#aborting.signal, cache: "no-store" });
      if (reply.status === 200) {
        this.readyState = EventSource.OPEN;
        const lines = new Lines();
        const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
        for (let part = await reader.read(); !part.done; part = await reader.read()) {
          for (const event of lines.add(part.value)) {
            if (this.readyState === EventSource.OPEN) this.onmessage(event);
          }
        }
      }
    } catch { /* the connection was cut: the same as its end */ }
    if (this.readyState === EventSource.CLOSED) return;
    this.readyState = EventSource.CLOSED;
    this.onerror();
  }
}

/** Text in pieces, as events. */
export class Lines {
  #rest = "";
  #data = [];
  #id = "";

  /** The events that a piece completes. */
  add(piece) {
    // A carriage return at the end may be the first half of a line's end.
    const parts = (this.#rest + piece).split(/\r\n|\n|\r(?!$)/);
    this.#rest = parts.pop();
    return parts.map((line) => this.#take(line)).filter(Boolean);
  }

  #take(line) {
    if (line === "") {
      const event = this.#data.length ? { data: this.#data.join("\n"), lastEventId: this.#id } : null;
      this.#data = [];
      return event;
    }
    const [, field, value] = /^([^:]*):? ?([^]*)$/.exec(line);
    if (field === "data") this.#data.push(value);
    else if (field === "id") this.#id = value;
    return null;
  }
}
