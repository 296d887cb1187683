// The page: three views over the same inspector. It asks only while it is looked at.
import { byId, clock, element, get, number, percent } from "./api.js";
import { meter } from "./charts.js";
import * as golden from "./golden.js";
import * as numbers from "./numbers.js";
import * as review from "./review.js";

const WORDS = { OK: ["✓", "OK"], NG: ["✕", "NG"], UNSURE: ["?", "UNSURE"], ERROR: ["!", "ERROR"], WAIT: ["", "WAIT"] };
const COLOURS = { OK: "#1fbf75", NG: "#ff4d3d", UNSURE: "#ffc53d" };
let view = "live", state = null, ticks = [], seen = -1, misses = 0, heat = true, camera = null, later = 0;

function show(name) {
  view = name;
  for (const main of document.querySelectorAll(".view")) main.hidden = main.id !== name;
  for (const button of document.querySelectorAll("nav button")) button.setAttribute("aria-pressed", String(button.dataset.view === name));
  if (name === "review") review.refresh();
  if (name === "numbers") numbers.refresh();
  if (name === "live") picture.wake();
}

// ---- lamps and banner -------------------------------------------------------------------------------------
function lamp(id, level, text) {
  const node = byId(id);
  node.dataset.level = level;
  node.textContent = text;
}

function lamps() {
  const bad = state.cameras.find((one) => one.state !== "running");
  const first = state.cameras[0];
  if (bad) lamp("camera-lamp", "bad", `${bad.name}: ${bad.state}`);
  else if (first) lamp("camera-lamp", "good", state.cameras.length > 1 ? `${state.cameras.length} cameras` : first.fps ? `Camera ${number1(first.fps)} fps` : "Camera");
  else lamp("camera-lamp", "unknown", "No camera");
  const warnings = state.drift?.warnings ?? [];
  lamp("drift-lamp", warnings.length ? "warn" : state.drift ? "good" : "unknown", warnings.length ? `Drift: ${plain(warnings[0].name)}` : "Drift");
  const down = state.sinks.filter((sink) => sink.state === "retrying" || sink.state === "stalled");
  const held = down.reduce((sum, sink) => sum + sink.owed, 0);
  if (!state.sinks.length) lamp("outputs-lamp", "unknown", "Outputs");
  else if (down.length) lamp("outputs-lamp", "warn", `${down.map((sink) => sink.name).join(", ")} down${held ? `, ${held} kept` : ""}`);
  else lamp("outputs-lamp", "good", "Outputs");
  const problems = state.health.problems.filter((text) => !text.startsWith("golden parts "));
  const blocked = golden.show(state.golden);
  if (blocked) lamp("golden-lamp", blocked.state === "blocked" ? "bad" : "warn", "No OK: golden parts");
  else {
    const released = state.golden.find((one) => one.state === "released");
    lamp("golden-lamp", released ? "warn" : "good", released ? `Golden parts: ${released.why.split(":")[0]}` : "Golden parts");
  }
  byId("golden-lamp").hidden = !state.golden.length;
  if (bad) banner("bad", `No inspection from ${bad.name}: ${bad.message || bad.state}`);
  else if (problems.length) banner("bad", problems[0]);
  else if (warnings.length) banner("warn", driftText(warnings[0]));
  else banner(null);
}

const number1 = (value) => (Number.isFinite(value) ? value.toFixed(1) : "–");
export const plain = (name) => name.replace("position_x", "position (across)").replace("position_y", "position (up and down)");

function driftText(warning) {
  const rate = warning.expected_false_alarm_rate;
  const soon = rate > 1.5 * (state.drift.stated_false_alarm_rate ?? 0) ? ` About ${percent(rate)} of good parts would now be rejected.` : "";
  return `Drift: ${warning.advice}.${soon}`;
}

function banner(level, text) {
  const node = byId("banner");
  node.hidden = !level;
  if (level) { node.dataset.level = level; if (node.textContent !== text) node.textContent = text; }
}

// ---- the word ---------------------------------------------------------------------------------------------
function word() {
  const blind = state.cameras.length > 0 && state.cameras.every((one) => one.state !== "running");
  const verdict = state.verdict;
  // a station that may give no OK now must not show the one that it gave before
  const stale = !blind && verdict?.decision === "OK" && state.golden.some((one) => one.blocks && one.station === verdict.source);
  const shown = blind || stale || !verdict ? "WAIT" : verdict.decision;
  document.body.dataset.state = shown;
  const [mark, text] = stale ? ["", "NO OK"] : WORDS[shown] ?? ["", shown];
  byId("mark").textContent = mark;
  byId("state").textContent = blind ? "NO PICTURE" : text;
  byId("reason").textContent = blind ? "Nothing is inspected until the camera is back" : stale ? "The last part was OK, before OK was blocked" : verdict ? verdict.reason : "Waiting for the first part";
  document.title = `${blind ? "NO PICTURE" : text} · ${state.line}`;
  const measured = !blind && verdict && verdict.score !== null && verdict.threshold !== null;
  byId("meter").hidden = !measured;
  if (measured) {
    meter(byId("meter").querySelector("svg"), verdict.score, verdict.threshold, COLOURS[shown] ?? "#5b6b7a");
    byId("score").textContent = number(verdict.score);
    byId("limit").textContent = number(verdict.threshold);
  }
  byId("yield").textContent = percent(state.hour.yield);
  byId("rejects").textContent = state.hour.rejects;
  byId("parts").textContent = state.hour.parts;
  byId("name").textContent = state.line;
  byId("artifact").textContent = state.artifact;
  const count = byId("open-count");
  count.hidden = !state.open_reviews;
  count.textContent = state.open_reviews > 99 ? "99+" : state.open_reviews;
}

async function history() {
  if (!state.verdict || state.verdict.seq === seen) return;
  const fresh = (await get(`api/verdicts?limit=150&after=${seen}`)).verdicts;
  seen = Math.max(seen, ...fresh.map((one) => one.seq));
  ticks = ticks.concat(fresh.reverse()).slice(-150);
  byId("ticks").replaceChildren(...ticks.map((one) => element("li", { "data-state": one.decision, title: `${clock(one.time)} ${one.decision} ${number(one.score)}` })));
  if (fresh.some((one) => one.decision !== "OK")) await strip();
}

async function strip() {
  const rejects = (await get("api/verdicts?limit=6&filter=rejects")).verdicts;
  byId("strip").replaceChildren(
    ...(rejects.length ? rejects.map(thumbnail) : [element("li", { class: "none" }, "No rejects yet")]),
  );
  // A picture is written after its verdict: look again until it is there, or never will be.
  const now = state?.verdict?.time ?? 0;
  clearTimeout(later);
  if (rejects.some((one) => !one.pictures.length && now - one.time < 30)) later = setTimeout(() => strip().catch(() => {}), 1000);
}

function thumbnail(one) {
  const open = () => { show("review"); review.select(one.id); };
  const image = one.pictures.length ? element("img", { src: review.address(one, true), alt: "", loading: "lazy" }) : null;
  return element("li", {}, element("button", { onclick: open, "aria-label": `${one.decision} at ${clock(one.time)}, open` }, image,
    element("span", {}, element("b", {}, one.decision), element("time", {}, clock(one.time)))));
}

// ---- live picture: the next one is asked for when the last has arrived -------------------------------------
const picture = {
  sequence: -1, running: false, address: null,
  wake() { if (!this.running) this.run(); },
  async run() {
    this.running = true;
    while (view === "live" && !document.hidden) {
      try {
        const query = new URLSearchParams({ after: this.sequence, heat: heat ? 1 : 0, ...(camera ? { camera } : {}) });
        const answer = await fetch(`live.jpg?${query}`, { cache: "no-store" });
        if (answer.status === 200) await this.put(answer);
        else if (answer.status !== 204) await rest(1000);
      } catch { await rest(1000); }
    }
    this.running = false;
  },
  async put(answer) {
    this.sequence = Number(answer.headers.get("X-Sequence"));
    const address = URL.createObjectURL(await answer.blob());
    const node = byId("picture");
    node.src = address;
    await node.decode().catch(() => {});
    node.hidden = false;
    if (this.address) URL.revokeObjectURL(this.address);
    this.address = address;
  },
};
const rest = (ms) => new Promise((done) => setTimeout(done, ms));

function stale() {
  const running = state.cameras.some((one) => one.state === "running");
  const none = byId("no-picture");
  document.querySelector(".picture").classList.toggle("stale", !running);
  none.hidden = running && !byId("picture").hidden;
  none.textContent = running ? "No picture yet" : state.cameras[0]?.message || "No camera";
}

// ---- round ------------------------------------------------------------------------------------------------
async function round() {
  if (!document.hidden) {
    try {
      state = await get("api/state");
      misses = 0;
      lamps(); word(); stale();
      if (view === "live") await history();
      if (view === "review") await review.refresh();
      if (view === "numbers") await numbers.refresh(state);
    } catch {
      if (++misses > 2) {
        document.body.dataset.state = "WAIT";
        byId("mark").textContent = "";
        byId("state").textContent = "NO LINK";
        byId("reason").textContent = "The inspector does not answer";
        banner("bad", "The inspector does not answer: this page shows nothing current");
      }
    }
  }
  setTimeout(round, view === "live" ? 300 : 1000);
}

function toggleHeat() {
  heat = !heat;
  for (const id of ["heat", "overlay-button"]) byId(id).setAttribute("aria-pressed", String(heat));
  picture.sequence = -1;
  review.overlay(heat);
}

const KEYS = {
  1: () => show("live"), 2: () => show("review"), 3: () => show("numbers"), Escape: () => show("live"),
  h: toggleHeat, "?": () => byId("help").showModal(),
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || byId("help").open) return;
  if (event.target.tagName === "INPUT" || event.target.tagName === "SELECT") return;
  const act = KEYS[event.key] ?? KEYS[event.key.toLowerCase()];
  if (act) { event.preventDefault(); act(); return; }
  if (review.key(event.key)) { event.preventDefault(); if (view !== "review") show("review"); }
});
for (const button of document.querySelectorAll("nav button")) button.addEventListener("click", () => show(button.dataset.view));
for (const id of ["heat", "overlay-button"]) byId(id).addEventListener("click", toggleHeat);
byId("help-button").addEventListener("click", () => byId("help").showModal());
document.addEventListener("visibilitychange", () => picture.wake());
window.addEventListener("resize", () => { if (view === "numbers") numbers.refresh(state, true); });

async function cameras() {
  const { cameras: all } = await get("api/state");
  if (all.length < 2) return;
  const choose = element("select", { "aria-label": "Camera", onchange: (event) => { camera = event.target.value; picture.sequence = -1; } },
    ...all.map((one) => element("option", { value: one.name }, one.name)));
  document.querySelector(".tools").prepend(choose);
}

strip().catch(() => {});
cameras().catch(() => {});
round();
picture.wake();
