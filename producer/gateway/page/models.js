// Which models are served, and which one is asked.
import { get } from "./api.js";
import { byId, el, say } from "./dom.js";

export class Models {
  #seen = "";
  #byName = new Map();

  constructor(store) {
    this.store = store;
    byId("model").onchange = () => {
      store.settings.model = byId("model").value;
      store.save();
      this.#advise();
    };
  }

  get(name) {
    return this.#byName.get(name);
  }

  /** See whether there are others now.  board: of the queue. */
  async hear(board) {
    const seen = JSON.stringify(board.models.map((each) => [each.model, each.workers.map((worker) => worker.model_state)]));
    if (seen === this.#seen) return;
    const { data } = await get("v1/models");
    this.#seen = seen;
    this.#byName = new Map(data.map((model) => [model.id, model]));
    const { settings } = this.store;
    if (!settings.model && data.length) settings.model = data[0].id;
    const named = this.#byName.has(settings.model) || !settings.model ? [] : [{ id: settings.model, state: "no worker" }];
    const options = [...data, ...named].map(({ id, state }) => el("option", { value: id, textContent: state === "ready" ? id : `${id} (${state})` }));
    byId("model").replaceChildren(...options);
    byId("model").value = settings.model;
    byId("model").disabled = !options.length;
    this.#advise();
  }

  /** What stands where no conversation is. */
  #advise() {
    const model = this.get(this.store.settings.model);
    if (!model) {
      say(byId("greeting"), "No worker serves a model yet");
      say(byId("advice"), "Start one: genqueue-worker run --model-name NAME. It appears here by itself.");
      return;
    }
    const context = model.max_model_len ? `a context of ${model.max_model_len.toLocaleString("en")} tokens` : null;
    const kind = model.chat_template === false ? "no chat template: each message is a prompt of its own" : null;
    say(byId("greeting"), model.id);
    say(byId("advice"), [context, kind].filter(Boolean).join(", ") || "Ask it something.");
  }
}
