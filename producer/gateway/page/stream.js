// An answer over connections that die: begun by POST, and read by GET, each event of it once.
import { FetchedEvents } from "./fetched.js";

const AGAIN_MS = 500;
/** Codes of errors that pass: Redis is away for a while, or the gateway ends and another goes on. */
const AWAY = ["broker_unavailable", "wait_timeout", "gateway_ending"];
/** Whether an answer that is made cannot be had for good. An error without a code is a proxy's, and passes, too. */
const isFinal = (error) => error?.code && ![...AWAY, "rate_limit_exceeded"].includes(error.code);

/** Ask for an answer, and return its address. The same key is the same answer, so it is asked until a gateway has
 * said something.  Throws the gateway's error. */
export async function begin(url, body, key, { headers = {}, signal } = {}) {
  const sent = { "content-type": "application/json", "idempotency-key": key, prefer: "respond-async", ...headers };
  for (;;) {
    const said = await ask(url, { method: "POST", body: JSON.stringify(body), headers: sent, signal });
    if (said.error?.code && !AWAY.includes(said.error.code)) throw said.error;
    if (said.id) return `${url}/${said.id}`;
    await new Promise((go) => setTimeout(go, AGAIN_MS));
  }
}

/** Hand over each event of the answer at that address, and then its end: nothing, or the error. Returns what leaves it
 * early.  cursor: of the last event that was seen before. */
export function follow(url, onEvent, onEnd, { cursor = null, headers = null } = {}) {
  let source, isOver = false;
  const leave = () => { isOver = true; source.close(); };
  const end = (error) => { if (!isOver) { leave(); onEnd(error); } };
  const connect = () => {
    const at = cursor === null ? `${url}?stream=true` : `${url}?starting_after=${cursor}`;
    source = headers ? new FetchedEvents(at, headers) : new EventSource(at);
    source.onmessage = ({ data, lastEventId }) => {
      if (data === "[DONE]") return end();
      const event = JSON.parse(data);
      if (event.error) return isFinal(event.error) && end(event.error);
      cursor = lastEventId;
      return onEvent(event, cursor);
    };
    source.onerror = async () => {
      if (source.readyState !== EventSource.CLOSED) return;  // it comes again by itself, with Last-Event-ID
      const said = await ask(at, { headers: { accept: "text/event-stream", ...headers } });
      if (said.isSeen || isFinal(said.error)) end(said.error);
      else setTimeout(() => isOver || connect(), AGAIN_MS);  // it was a proxy's 502, say
    };
  };
  connect();
  return leave;
}

/** What a gateway says to a request: JSON, or that all was seen; nothing where it sends events, or is not there. */
async function ask(url, request) {
  try {
    const reply = await fetch(url, request);
    if (reply.status === 204) return { isSeen: true };
    if (reply.headers.get("content-type")?.startsWith("application/json")) return await reply.json();
    await reply.body?.cancel();
  } catch {
    request.signal?.throwIfAborted();
  }
  return {};
}
