// A conversation: what is asked, and how its answer goes on over reloads and dead connections.
import { askForKey, get, headers } from "./api.js";
import { begin, follow } from "./stream.js";

const CHAT = "v1/chat/completions";
const COMPLETIONS = "v1/completions";
const LONG = { context: 4096, answer: 1024 };

export class Chat {
  #leave = null;

  /** view: is told of messages as they change.  models: those that are served, by name. */
  constructor(store, view, models) {
    this.store = store;
    this.view = view;
    this.models = models;
    view.show(store.messages);
    if (store.turn) this.#run();
  }

  get isBusy() {
    return this.store.turn !== null;
  }

  /** Ask. */
  send(content) {
    const { store } = this;
    store.messages.push({ role: "user", content });
    this.view.add(store.messages.at(-1));
    this.#ask();
  }

  /** Ask again what has failed. */
  again() {
    if (this.isBusy || !this.store.messages.at(-1)?.error) return;
    this.store.messages.pop();
    this.view.dropLast();
    this.#ask();
  }

  /** End the answer, and free the GPU. What has come of it stays. */
  stop() {
    const { turn } = this.store;
    if (!turn) return;
    this.#leave?.();
    if (turn.url) drop(turn.url);
    else turn.isStopped = true;  // it is dropped as soon as it has an address
    this.#end({ note: "stopped" });
  }

  /** Begin another conversation. */
  clear() {
    this.stop();
    this.store.messages = [];
    this.store.save();
    this.view.show([]);
  }

  #ask() {
    const { store } = this;
    const [url, body] = this.#request();
    store.turn = { key: randomKey(), url: null, at: url, body, cursor: null };
    store.messages.push({ role: "assistant", content: "" });
    this.view.add(store.messages.at(-1));
    store.save();
    this.#run();
  }

  /** Where to, and what. A model without a chat template is asked each message as a prompt of its own. */
  #request() {
    const { messages, settings } = this.store;
    const model = this.models.get(settings.model);
    const longest = settings.maxTokens || (model?.max_model_len >= LONG.context ? LONG.answer : null);
    const body = { model: settings.model, stream: true, stream_options: { include_usage: true } };
    if (longest) body.max_tokens = Number(longest);
    if (settings.temperature !== "") body.temperature = Number(settings.temperature);
    if (model?.chat_template === false) return [COMPLETIONS, { ...body, prompt: messages.at(-1).content }];
    const system = settings.system.trim() ? [{ role: "system", content: settings.system }] : [];
    return [CHAT, { ...body, messages: [...system, ...answered(messages)] }];
  }

  async #run() {
    const { store, view } = this;
    const { turn } = store;
    view.begin(store.messages.at(-1), turn);
    try {
      turn.url ??= await this.#begin(turn);
    } catch (error) {
      if (store.turn === turn) this.#end({ error });
      return;
    }
    if (turn.isStopped) return drop(turn.url);
    store.messages.at(-1).job = turn.url.split("/").at(-1).replace(/^(chatcmpl|cmpl)-/, "");
    store.save();
    this.#leave = follow(turn.url, (event, cursor) => this.#hear(event, cursor), (error) => this.#over(error), {
      cursor: turn.cursor, headers: headers(),
    });
  }

  async #begin(turn) {
    for (;;) {
      try {
        return await begin(turn.at, turn.body, turn.key, { headers: headers() ?? {} });
      } catch (error) {
        if (error.code !== "invalid_api_key") throw error;
        await askForKey({ isRefused: true });
      }
    }
  }

  #hear(event, cursor) {
    const message = this.store.messages.at(-1);
    const choice = event.choices[0];
    const text = choice?.delta?.content ?? choice?.text ?? "";
    const reasoning = choice?.delta?.reasoning ?? "";
    message.content += text;
    if (reasoning) message.reasoning = (message.reasoning ?? "") + reasoning;
    if (choice?.finish_reason) message.reason = choice.finish_reason;
    if (event.usage) message.tokens = event.usage.completion_tokens;
    this.store.turn.cursor = cursor;
    this.store.saveSoon();
    this.view.append(text, reasoning);
  }

  #over(error) {
    this.#end(error ? { error } : {});
  }

  #end(said) {
    const { store, view } = this;
    const message = Object.assign(store.messages.at(-1), said);
    this.#leave = store.turn = null;
    store.save();
    view.end(message);
    if (message.job && !message.error && !message.note) this.#measure(message);
  }

  /** How fast it was, as its worker tells. */
  async #measure(message) {
    try {
      const { timings } = await get(`v1/queue/${message.job}`);
      message.tokensPerSecond = timings?.tokens_per_second ?? null;
      this.store.save();
      this.view.note(message);
    } catch { /* it is gone by now */ }
  }
}

/** The messages that a model is sent: none of a question that has no answer, and of answers what was said. */
function answered(messages) {
  const isEmpty = (message) => message?.role === "assistant" && !message.content;
  return messages
    .filter((message, place) => !isEmpty(message) && !(message.role === "user" && isEmpty(messages[place + 1])))
    .map(({ role, content }) => ({ role, content }));
}

function drop(url) {
  fetch(url, { method: "DELETE", headers: headers() ?? {}, keepalive: true }).catch(() => {});
}

/** `crypto.randomUUID` is not there on a page that came by plain HTTP from elsewhere. */
function randomKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
