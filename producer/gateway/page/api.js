// The gateway's own answers, and the key that it may ask for. The key is in this tab's storage, and in no address.
import { byId, say } from "./dom.js";

const NAME = "genqueue.key";
let key = sessionStorage.getItem(NAME);
let asking = null;

/** What a request is sent with; null where no key is in use. */
export const headers = () => (key ? { authorization: `Bearer ${key}` } : null);

/** JSON from a path.  Throws the gateway's error, or a TypeError where none is there. Asks for a key where it has to. */
export async function get(path) {
  for (;;) {
    const reply = await fetch(path, { headers: headers() ?? {}, cache: "no-store" });
    const said = await reply.json();
    if (said.error?.code !== "invalid_api_key") {
      if (said.error) throw said.error;
      return said;
    }
    await askForKey({ isRefused: true });
  }
}

/** Ask for a key, once for all who need one.  isRefused: the one in use was not let in. */
export function askForKey({ isRefused }) {
  asking ??= new Promise((given) => {
    const dialog = byId("key-dialog");
    say(byId("key-error"), isRefused && key ? "The key that was used is not known here." : "");
    byId("key").value = "";
    byId("key-form").onsubmit = (event) => {
      event.preventDefault();
      key = byId("key").value.trim();
      sessionStorage.setItem(NAME, key);
      byId("change-key").hidden = false;
      asking = null;
      dialog.close();
      given();
    };
    dialog.showModal();
  });
  if (!byId("key-dialog").open) byId("key-dialog").showModal();
  return asking;
}

byId("change-key").hidden = !key;
byId("change-key").onclick = () => askForKey({ isRefused: false });
