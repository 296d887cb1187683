// Review: step through parts with the keyboard, look closely, say what they were.
import { byId, clock, element, get, number, post } from "./api.js";

let filter = "open", parts = [], chosen = null, overlaid = true, explained = false, busy = false;
const place = { scale: 1, x: 0, y: 0 };

export function address(part, withMap = overlaid) {
  const kind = withMap && part.pictures.includes("overlay") ? "overlay" : part.pictures[0];
  return `api/verdicts/${part.id}/pictures/${kind}`;
}

export async function refresh() {
  if (busy) return;
  busy = true;
  try {
    const fresh = (await get(`api/verdicts?limit=200&filter=${filter}`)).verdicts;
    const same = fresh.length === parts.length && fresh.every((one, i) => one.id === parts[i].id && one.label === parts[i].label && one.pictures.length === parts[i].pictures.length);
    // The part being looked at stays in the list when it has just been labelled: stepping on is the engineer's move.
    const kept = chosen && !fresh.some((one) => one.id === chosen.id) ? parts.find((one) => one.id === chosen.id) : null;
    if (!same) {
      parts = kept ? [...fresh, kept].sort((a, b) => b.seq - a.seq) : fresh;
      list();
      const newer = parts.find((one) => one.id === chosen?.id);
      if (newer && newer.pictures.length !== chosen.pictures.length) { chosen = newer; detail(); }
    }
    if (!chosen && parts.length) select(parts[0].id);
  } finally { busy = false; }
}

function list() {
  byId("parts-list").replaceChildren(...(parts.length ? parts.map(row) : [element("li", { class: "none" }, filter === "open" ? "Nothing left to review" : "No parts yet")]));
  mark();
}

function row(part) {
  const told = part.label ? (part.label === "good" ? "Good part" : "Real defect") : null;
  return element("li", { role: "option", id: `part-${part.id}`, onclick: () => select(part.id) },
    element("span", { class: "badge", "data-state": part.decision }, part.decision),
    element("time", {}, clock(part.time)),
    element("span", { class: "score" }, number(part.score)),
    told ? element("span", { class: "tag" }, told) : null);
}

function mark() {
  for (const node of byId("parts-list").children) {
    const on = chosen && node.id === `part-${chosen.id}`;
    node.setAttribute("aria-selected", String(Boolean(on)));
    if (on) {
      byId("parts-list").setAttribute("aria-activedescendant", node.id);
      node.scrollIntoView({ block: "nearest" });
    }
  }
}

export async function select(id) {
  chosen = parts.find((one) => one.id === id) ?? (await get(`api/verdicts/${id}`).catch(() => null));
  explained = false;
  whole();
  detail();
  mark();
}

function detail() {
  const image = byId("zoomed"), has = Boolean(chosen?.pictures.length);
  image.hidden = !has;
  byId("no-zoom").hidden = has;
  byId("no-zoom").textContent = chosen ? "No picture was kept of this part" : "Choose a part";
  if (has) image.src = explained ? `api/verdicts/${chosen.id}/explanation` : address(chosen);
  image.alt = explained ? "Why the selected part got its score" : "Picture of the selected part";
  byId("why-button").disabled = !has;
  byId("why-button").setAttribute("aria-pressed", String(explained));
  byId("d-state").textContent = chosen?.decision ?? "";
  byId("d-reason").textContent = chosen?.reason ?? "";
  const facts = chosen && [`Part ${chosen.part ?? chosen.id}`, chosen.source, `score ${number(chosen.score)}`, `limit ${number(chosen.threshold)}`,
    `${number(chosen.latency_ms)} ms`, new Date(chosen.time * 1000).toLocaleString([], { hour12: false })];
  byId("d-facts").textContent = chosen ? facts.filter(Boolean).join(" · ") : "";
  for (const button of document.querySelectorAll("[data-label]")) {
    button.disabled = !chosen || (button.dataset.label === "" && !chosen.label);
    button.setAttribute("aria-pressed", String(Boolean(chosen?.label) && chosen.label === button.dataset.label));
  }
}

export function overlay(on) {
  overlaid = on;
  explained = false;
  detail();
}

function why() {
  if (!chosen?.pictures.length) return;
  explained = !explained;
  whole();
  detail();
}

async function label(value) {
  if (!chosen) return;
  const part = chosen;
  try {
    const answer = await post(`api/verdicts/${part.id}/label`, { label: value || null });
    Object.assign(part, answer);
    const listed = parts.find((one) => one.id === part.id);
    if (listed) Object.assign(listed, answer);
    list();
    detail();
    if (answer.filed) byId("d-facts").textContent = answer.filed;
  } catch (error) { byId("d-facts").textContent = `Not stored: ${error.message}`; }
}

function step(by) {
  if (!parts.length) return;
  const at = parts.findIndex((one) => one.id === chosen?.id);
  select(parts[Math.max(0, Math.min(parts.length - 1, at + by))].id);
}

// ---- zoom and pan -----------------------------------------------------------------------------------------
function draw() {
  byId("zoomed").style.transform = `translate(${place.x}px, ${place.y}px) scale(${place.scale})`;
}

function whole() { Object.assign(place, { scale: 1, x: 0, y: 0 }); draw(); }

function zoom(factor, x, y) {
  const box = byId("zoom").getBoundingClientRect();
  const cx = x ?? box.width / 2, cy = y ?? box.height / 2;
  const scale = Math.max(1, Math.min(16, place.scale * factor));
  place.x = cx - ((cx - place.x) * scale) / place.scale;
  place.y = cy - ((cy - place.y) * scale) / place.scale;
  place.scale = scale;
  keep();
}

function keep() {
  const box = byId("zoom").getBoundingClientRect();
  place.x = Math.min(0, Math.max(box.width * (1 - place.scale), place.x));
  place.y = Math.min(0, Math.max(box.height * (1 - place.scale), place.y));
  draw();
}

const fingers = new Map();
const area = byId("zoom");
area.addEventListener("wheel", (event) => {
  event.preventDefault();
  const box = area.getBoundingClientRect();
  zoom(event.deltaY < 0 ? 1.25 : 0.8, event.clientX - box.left, event.clientY - box.top);
}, { passive: false });
area.addEventListener("dblclick", (event) => {
  const box = area.getBoundingClientRect();
  if (place.scale > 1) whole(); else zoom(3, event.clientX - box.left, event.clientY - box.top);
});
area.addEventListener("pointerdown", (event) => { area.setPointerCapture(event.pointerId); fingers.set(event.pointerId, event); });
area.addEventListener("pointermove", (event) => {
  const before = fingers.get(event.pointerId);
  if (!before) return;
  const other = [...fingers.entries()].find(([id]) => id !== event.pointerId)?.[1];
  if (other) {
    const box = area.getBoundingClientRect();
    const apart = (one) => Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY);
    zoom(apart(event) / (apart(before) || 1), (event.clientX + other.clientX) / 2 - box.left, (event.clientY + other.clientY) / 2 - box.top);
  } else {
    place.x += event.clientX - before.clientX;
    place.y += event.clientY - before.clientY;
    keep();
  }
  fingers.set(event.pointerId, event);
});
for (const end of ["pointerup", "pointercancel"]) area.addEventListener(end, (event) => fingers.delete(event.pointerId));

const KEYS = {
  ArrowDown: () => step(1), ArrowRight: () => step(1), j: () => step(1), ArrowUp: () => step(-1), ArrowLeft: () => step(-1), k: () => step(-1),
  w: why, d: () => label("defect"), g: () => label("good"), u: () => label(""),
  "+": () => zoom(1.5), "=": () => zoom(1.5), "-": () => zoom(1 / 1.5), 0: whole,
};

export function key(name) {
  const act = KEYS[name] ?? KEYS[name.toLowerCase()];
  // A label is only given to a part that is on the screen.
  if (!act || (byId("review").hidden && !["ArrowDown", "ArrowRight", "ArrowUp", "ArrowLeft", "j", "k"].includes(name))) return false;
  act();
  return true;
}

byId("why-button").addEventListener("click", why);
for (const button of document.querySelectorAll("[data-label]")) button.addEventListener("click", () => label(button.dataset.label));
for (const button of document.querySelectorAll("[data-filter]")) {
  button.addEventListener("click", () => {
    filter = button.dataset.filter;
    for (const one of document.querySelectorAll("[data-filter]")) one.setAttribute("aria-pressed", String(one === button));
    parts = []; chosen = null;
    list(); detail();
    refresh();
  });
}
detail();
