type Child = Node | string | null;
type Attributes = Record<string, string | number | boolean | null | undefined | ((event: never) => void)>;

/** Creates an element. `on…` attributes are listeners; true is an empty attribute, false and null none. */
export function h<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  attributes: Attributes = {},
  ...children: Child[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name.slice(2), value as EventListener);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined)
      element.setAttribute(name, String(value));
  }
  element.append(...children.filter((child): child is Node | string => child !== null));
  return element;
}

/** Sets text only when it differs, so that nothing is repainted or announced twice. */
export function setText(element: Element, text: string): void {
  if (element.textContent !== text) element.textContent = text;
}

/** Sets or removes an attribute only when it differs. */
export function setAttribute(element: Element, name: string, value: string | boolean | null): void {
  const text = value === true ? "" : value;
  if (text === false || text === null) {
    if (element.hasAttribute(name)) element.removeAttribute(name);
  } else if (element.getAttribute(name) !== text) element.setAttribute(name, text);
}

/** Shows or hides. */
export function setHidden(element: HTMLElement, hidden: boolean): void {
  if (element.hidden !== hidden) element.hidden = hidden;
}

/** Makes `parent` hold exactly `children`, in order, moving as little as possible. */
export function setChildren(parent: Element, children: Element[]): void {
  const wanted = new Set<Element>(children);
  for (const child of [...parent.children]) if (!wanted.has(child)) child.remove();
  children.forEach((child, index) => {
    const present = parent.children[index];
    if (present !== child) parent.insertBefore(child, present ?? null);
  });
}

const ICONS = {
  spark:
    "M12 3l1.9 5.6a2 2 0 0 0 1.3 1.3L21 12l-5.8 2.100a2 2 0 0 0-1.3 1.300L12 21l-1.9-5.600a2 2 0 0 0-1.3-1.300L3 12l5.8-2.100a2 2 0 0 0 1.3-1.300z",
  close: "M6 6l12 12M18 6L6 18",
  stop: "M7 7h10v10H7z",
  chevron: "M6 9l6 6 6-6",
  lock: "M6 11h12v9H6zM8.5 11V8a3.5 3.5 0 0 1 7 0v3",
  unlock: "M6 11h12v9H6zM8.5 11V7a3.5 3.5 0 0 1 6.7-1.4",
  dice: "M12 3l8 4.5v9L12 21l-8-4.500v-9zM4.200 7.600L12 12l7.800-4.400M12 12v8.700",
  reuse: "M4 7h11a5 5 0 0 1 0 10H8M4 7l3.5-3.500M4 7l3.5 3.5",
  remix:
    "M3 7h3.500c5 0 5 10 10 10H21M18 14l3 3-3 3M3 17h3.500c1.7 0 2.8-1.1 3.7-2.600M21 7h-4.500c-1.7 0-2.8 1.1-3.7 2.600M18 4l3 3-3 3",
  save: "M12 4v11M7.5 10.500L12 15l4.5-4.500M5 19.500h14",
  compare: "M12 3v18M4 6h5v12H4M20 6h-5v12h5",
  copy: "M9 9h11v11H9zM5 15H4V4h11v1",
  plus: "M12 5v14M5 12h14",
  check: "M5 12.500l4.5 4.500L19 7.5",
  cloud: "M7 18.500a4.2 4.2 0 0 1-.4-8.4 5.6 5.6 0 0 1 10.9-.6A4.5 4.5 0 0 1 17 18.500z",
  trash: "M5 7h14M9.5 7V4.500h5V7M7 7l.800 12.500h8.400L17 7",
  star: "M12 3.800l2.500 5.200 5.700.8-4.100 4 1 5.700-5.100-2.700-5.100 2.700 1-5.700-4.100-4 5.700-.8z",
  edit: "M4 20l1-4.500L16 4.500l3.500 3.500-11 11zM14 6.500l3.500 3.500",
  vary: "M4 4h7v7H4zM13 4h7v7h-7zM4 13h7v7H4zM13 13h7v7h-7z",
  brush: "M4 20c3 0 4.500-1 4.500-3a2.500 2.500 0 0 1 5 0c0 3-5 4-9.500 3zM12 14.500L19.500 4",
  eraser: "M8 19.500l-4-4L14 5.500l5.500 5.500-8.500 8.500zM8 19.500h12M9 10.500l5.500 5.500",
  undo: "M4.500 9.500H14a5 5 0 0 1 0 10H8M4.500 9.500L9 5M4.500 9.500L9 14",
  invert: "M12 3.500a8.500 8.500 0 0 0 0 17zM12 3.500a8.500 8.500 0 0 1 0 17",
  image: "M4 5h16v14H4zM4 16l4.500-5 4 4.500 2.500-2.500 5 5M15.500 9.200v.1",
  control: "M3 19.500l5-11 4 6 3.500-9 5.500 14M3 19.500h18",
  search: "M10.500 4.500a6 6 0 1 1 0 12 6 6 0 0 1 0-12zM15 15l5 5",
  large: "M14 4h6v6M20 4l-7 7M10 20H4v-6M4 20l7-7",
  left: "M15 5l-7 7 7 7",
  right: "M9 5l7 7-7 7",
  warning: "M12 4.500L21 19.500H3zM12 10.500v4M12 17.200h.01",
};

export type IconName = keyof typeof ICONS;

/** A line icon, hidden from screen readers: the control around it has the name. */
export function icon(name: IconName): SVGSVGElement {
  const namespace = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(namespace, "svg");
  for (const [key, value] of Object.entries({ viewBox: "0 0 24 24", class: "icon", "aria-hidden": "true" }))
    svg.setAttribute(key, value);
  const path = document.createElementNS(namespace, "path");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}
