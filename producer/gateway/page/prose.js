// An answer that is whole: fenced code as blocks of their own, and all else as the model wrote it.
import { el } from "./dom.js";

const FENCE = /^```[^\n]*(?:\n|$)/m;

/** The parts of a text, for an element to hold. */
export function prose(text) {
  const parts = text.split(FENCE);
  if (parts.length === 1) return [document.createTextNode(text)];
  return parts.map((part, place) => (place % 2 ? code(part) : words(part))).filter(Boolean);
}

const code = (part) => el("pre", { tabIndex: 0 }, el("code", { textContent: part.replace(/\n$/, "") }));

const words = (part) => (part.trim() ? el("p", { textContent: part.replace(/^\n+|\n+$/g, "") }) : null);
