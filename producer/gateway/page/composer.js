// What is typed: the message, and the options of the conversation.
import { byId } from "./dom.js";

const OPTIONS = { system: "system", temperature: "temperature", "max-tokens": "maxTokens" };

/** send: is given a text.  stop: ends the answer.  Returns what to call as answers begin and end. */
export function composer(store, { send, stop }) {
  const text = byId("text");
  const grow = () => {
    text.style.height = "auto";
    text.style.height = `${text.scrollHeight}px`;
  };
  let isBusy = false;
  text.oninput = grow;
  text.onkeydown = (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    byId("composer").requestSubmit();
  };
  byId("composer").onsubmit = (event) => {
    event.preventDefault();
    if (isBusy || !text.value.trim() || !store.settings.model) return;
    send(text.value);
    text.value = "";
    grow();
  };
  byId("stop").onclick = stop;
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && isBusy && !event.isComposing && !document.querySelector("dialog[open]")) stop();
  });
  for (const [id, name] of Object.entries(OPTIONS)) {
    byId(id).value = store.settings[name];
    byId(id).onchange = () => {
      store.settings[name] = byId(id).value;
      store.save();
    };
  }
  return (busy) => {
    const hadFocus = [byId("send"), byId("stop"), text].includes(document.activeElement);
    isBusy = busy;
    byId("send").hidden = busy;
    byId("stop").hidden = !busy;
    if (hadFocus) text.focus();
  };
}
