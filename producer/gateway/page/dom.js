// Elements made of text. Nothing here reads markup, so that no text can become any.

/** An element with these properties and children, which are elements or text. */
export function el(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in made) made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

export const byId = (id) => document.getElementById(id);

/** Set an element's text, where it differs: what is the same is not laid out again. */
export function say(element, text) {
  const said = String(text ?? "");
  if (element.textContent !== said) element.textContent = said;
}
