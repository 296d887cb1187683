// Numbers: drift, yield, latency, and what another limit would have cost.
import { byId, element, get, number, percent, post } from "./api.js";
import { histogram, lines } from "./charts.js";

let asked = 0, threshold = null, supposed = null, series = null, camera = "";
const NAMES = { score: "Score", exposure: "Exposure", sharpness: "Sharpness", position_x: "Position, across", position_y: "Position, up/down" };

export async function refresh(state, redraw = false) {
  if (state) { drift(state.drift); machine(state); choice(state.cameras); }
  if (redraw || Date.now() - asked > 5000) {
    asked = Date.now();
    [series, threshold] = await Promise.all([get("api/series?minutes=480&buckets=48"), get(`api/threshold${camera && `?camera=${encodeURIComponent(camera)}`}`)]);
    charts();
  }
}

// Every camera has scores and a limit of its own: with several, one is looked at.
function choice(cameras) {
  const select = byId("threshold-camera");
  select.hidden = cameras.length < 2;
  if (select.hidden || select.options.length === cameras.length) return;
  select.replaceChildren(...cameras.map((one) => element("option", { value: one.name }, one.name)));
  camera = cameras[0].name;
}

function charts() {
  for (const node of document.querySelectorAll(".bucket")) node.textContent = `${Math.round(series.bucket_s / 60)} min`;
  const lowest = Math.min(...series.yield.filter((one) => one !== null), 1);
  lines(byId("yield-chart"), series.time, [{ values: series.yield }],
    { low: Math.max(0, Math.min(lowest, 0.95)), high: 1, format: (value) => (value > 1.0001 ? "" : `${Number((100 * value).toFixed(2))} %`) });
  lines(byId("latency-chart"), series.time, [{ values: series.latency_p50_ms }, { values: series.latency_p99_ms, kind: "second" }],
    { low: 0, format: (value) => Number(value.toFixed(2)) });
  limits();
}

function limits() {
  const { edges, counts, image_threshold: limit } = threshold;
  const input = byId("threshold-slider");
  const low = edges[0] ?? 0, high = edges.at(-1) ?? 1;
  if (supposed === null && limit !== null && high > low) input.value = Math.round((1000 * (limit - low)) / (high - low));
  const at = low + (input.value / 1000) * (high - low);
  histogram(byId("threshold-chart"), edges, counts, limit, supposed, number);
  const promise = threshold.false_alarm_rate === null ? "limit set by hand, no false-alarm rate is promised" :
    `calibrated for ${percent(threshold.false_alarm_rate)} false alarms on ${threshold.normals} good parts`;
  byId("threshold-note").textContent = limit === null ? "not calibrated" : `scores of the last ${threshold.parts} parts; ${promise}`;
  byId("what-if").textContent = number(supposed ?? limit);
  const over = shareOver(edges, counts, at);
  const normal = normalsOver(at);
  byId("what-if-text").textContent = edges.length < 2 ? "" :
    `${falseAlarms(normal, threshold.normals)}, and ${percent(over)} of the last ${threshold.parts} parts rejects.`;
}

// None of n good parts above the limit still leaves room for 3 / n false alarms, with 95 % confidence.
function falseAlarms(share, normals) {
  if (share !== 0 || !normals) return `${percent(share)} of the good calibration parts would be false alarms`;
  return `None of the ${normals} good calibration parts would be a false alarm (at most ${percent(Math.min(1, 3 / normals))} of good parts, 95 % sure)`;
}

function shareOver(edges, counts, at) {
  const total = counts.reduce((sum, one) => sum + one, 0);
  let over = 0;
  counts.forEach((count, i) => {
    const wide = edges[i + 1] - edges[i] || 1;
    over += count * Math.max(0, Math.min(1, (edges[i + 1] - at) / wide));
  });
  return total ? over / total : null;
}

function normalsOver(at) {
  const quantiles = threshold.score_quantiles;
  if (!quantiles || quantiles.length < 2) return null;
  if (at <= quantiles[0]) return 1;
  const i = quantiles.findIndex((one) => one > at);
  if (i < 0) return 0;
  const part = (at - quantiles[i - 1]) / (quantiles[i] - quantiles[i - 1] || 1);
  return 1 - (i - 1 + part) / (quantiles.length - 1);
}

function drift(report) {
  const box = byId("drift");
  if (!report) { box.replaceChildren(element("p", { class: "small" }, "Not watched: switch on [drift] in the line's configuration.")); return; }
  const rows = Object.entries(report.statistics).map(([name, one]) => {
    const evidence = Math.max(...one.evidence.map((value) => value ?? -9));
    // 0 is the warning; six powers of ten below it is nothing at all.
    const share = Math.max(0, Math.min(1, (evidence + 6) / 6));
    const warned = report.warnings.some((warning) => warning.name === name);
    const fill = element("i", { "data-level": warned ? "bad" : share > 0.8 && !one.tolerated ? "warn" : "good" });
    fill.style.width = `${100 * share}%`;
    const was = one.reference === null ? "learning" : `${number(one.reference)} → ${number(one.now)}`;
    return element("div", { class: "drift-row" }, element("span", {}, NAMES[name] ?? name), element("div", { class: "bar" }, fill), element("span", {}, was));
  });
  const advice = report.warnings.map((warning) => element("p", { class: "advice" }, `${NAMES[warning.name] ?? warning.name} ${warning.side}: ${warning.advice}`,
    element("button", { onclick: () => post("api/drift/acknowledge").catch((error) => { box.prepend(element("p", {}, `Not stored: ${error.message}`)); }) }, "Seen to")));
  const note = element("p", { class: "small" }, `A full bar is a warning. On an unchanged line at most one false warning in ${report.parts_between_false_warnings.toLocaleString()} parts, on average.`);
  box.replaceChildren(...advice, ...rows, note);
}

function machine(state) {
  const row = (name, text) => element("tr", {}, element("td", {}, name), element("td", {}, text));
  byId("machine").replaceChildren(
    ...state.cameras.map((one) => row(`Camera ${one.name}`, [one.state, one.fps ? `${one.fps.toFixed(1)} fps` : "", one.message, one.dropped ? `${one.dropped} frames skipped` : ""].filter(Boolean).join(" · "))),
    ...state.sinks.map((one) => row(`Output ${one.name}`, [one.state, one.owed ? `${one.owed} kept for later` : "", one.dropped ? `${one.dropped} not delivered` : "", one.last_error].filter(Boolean).join(" · "))),
    row("Health", state.health.problems.length ? state.health.problems.join("; ") : "live and ready"),
    row("Artifact", state.artifact),
    row("Engine", state.verdict?.engine ?? ""),
    row("EdgeAD", state.version),
  );
}

byId("threshold-camera").addEventListener("change", (event) => {
  camera = event.target.value; supposed = null;
  refresh(null, true).catch(() => {});
});
byId("threshold-slider").addEventListener("input", (event) => {
  if (!threshold) return;
  const low = threshold.edges[0] ?? 0, high = threshold.edges.at(-1) ?? 1;
  supposed = low + (event.target.value / 1000) * (high - low);
  limits();
});
