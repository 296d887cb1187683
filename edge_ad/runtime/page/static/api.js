// Talks to the inspector. Every write carries a header that a foreign page cannot send without being asked for leave.
export async function get(path) {
  const answer = await fetch(path, { cache: "no-store" });
  if (answer.status === 401) location.reload();
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer.json();
}

export async function post(path, body) {
  const answer = await fetch(path, {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-EdgeAD": "1" },
    body: JSON.stringify(body ?? {}),
  });
  if (answer.status === 401) location.reload();
  if (!answer.ok) throw new Error((await answer.json().catch(() => ({}))).detail ?? `${path}: ${answer.status}`);
  return answer.json();
}

export const byId = (id) => document.getElementById(id);

export function element(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (value !== undefined && value !== null) node.setAttribute(key, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

export function number(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  return value.toFixed(size >= 100 ? 0 : size >= 10 ? 1 : size >= 0.1 ? 3 : 4);
}

export const percent = (share) =>
  share === null || share === undefined ? "–" : `${(100 * share).toFixed(share > 0.9995 || share < 0.0995 ? 2 : 1)} %`;

export const clock = (seconds) => new Date(seconds * 1000).toLocaleTimeString([], { hour12: false });
