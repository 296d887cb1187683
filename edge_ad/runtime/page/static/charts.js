// Small SVG charts: drawn whole, at the element's own size, without a library.
const NS = "http://www.w3.org/2000/svg";

function shape(svg, name, attributes, text) {
  const node = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  svg.append(node);
  return node;
}

function frame(svg, low, high, ticks, format) {
  svg.replaceChildren();
  const width = svg.clientWidth || 600, height = svg.clientHeight || 240;
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const box = { left: 56, right: width - 10, top: 12, bottom: height - 26 };
  const y = (value) => box.bottom - ((value - low) / (high - low || 1)) * (box.bottom - box.top);
  for (const tick of ticks) {
    shape(svg, "line", { class: "grid", x1: box.left, x2: box.right, y1: y(tick), y2: y(tick) });
    shape(svg, "text", { x: box.left - 8, y: y(tick) + 4, "text-anchor": "end" }, format(tick));
  }
  return { box, y };
}

function nice(low, high, count = 4) {
  const raw = (high - low) / count || 1;
  const unit = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].find((factor) => factor * unit >= raw) * unit;
  const ticks = [];
  for (let tick = Math.floor(low / step) * step; tick < high + step; tick += step) ticks.push(Number(tick.toPrecision(12)));
  return ticks;
}

export function lines(svg, times, series, { low, high, format }) {
  const values = series.flatMap((one) => one.values).filter((value) => value !== null);
  if (!values.length) return nothing(svg, "No parts yet");
  const ticks = nice(low ?? Math.min(...values), high ?? Math.max(...values));
  const { box, y } = frame(svg, ticks[0], ticks.at(-1), ticks, format);
  const x = (i) => box.left + (times.length < 2 ? 0.5 : i / (times.length - 1)) * (box.right - box.left);
  for (const { values: points, kind } of series) {
    let path = "", pen = false;
    points.forEach((value, i) => {
      if (value === null) { pen = false; return; }
      const alone = (i === 0 || points[i - 1] === null) && (i === points.length - 1 || points[i + 1] === null);
      if (alone) shape(svg, "circle", { class: `dot ${kind ?? ""}`, cx: x(i), cy: y(value), r: 3.5 });
      path += `${pen ? "L" : "M"}${x(i).toFixed(1)} ${y(value).toFixed(1)}`;
      pen = true;
    });
    shape(svg, "path", { class: `trace ${kind ?? ""}`, d: path });
  }
  const stride = Math.max(1, Math.ceil(times.length / Math.max(2, (box.right - box.left) / 110)));
  for (let i = 0; i < times.length; i += stride) {
    const label = new Date(times[i] * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", hour12: false });
    shape(svg, "text", { x: x(i), y: box.bottom + 18, "text-anchor": i ? "middle" : "start" }, label);
  }
}

// A histogram on a root scale, so that the few scores near the limit are seen beside the many far below it.
export function histogram(svg, edges, counts, limit, supposed, format) {
  const most = Math.max(...counts, 0);
  if (!most) return nothing(svg, "No scores yet");
  const { box } = frame(svg, 0, 1, [], format);
  const low = edges[0], high = edges.at(-1);
  const x = (value) => box.left + ((value - low) / (high - low || 1)) * (box.right - box.left);
  counts.forEach((count, i) => {
    if (!count) return;
    const tall = Math.sqrt(count / most) * (box.bottom - box.top);
    shape(svg, "rect", { class: "area", x: x(edges[i]) + 0.5, y: box.bottom - tall, width: Math.max(1, x(edges[i + 1]) - x(edges[i]) - 1), height: tall });
  });
  shape(svg, "line", { class: "grid", x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom });
  for (const tick of nice(low, high, 6)) {
    if (tick >= low && tick <= high) shape(svg, "text", { x: x(tick), y: box.bottom + 18, "text-anchor": "middle" }, format(tick));
  }
  if (limit !== null) {
    shape(svg, "line", { class: "limit", x1: x(limit), x2: x(limit), y1: box.top, y2: box.bottom });
    const side = x(limit) > (box.left + box.right) / 2 ? "end" : "start";
    shape(svg, "text", { x: x(limit) + (side === "end" ? -6 : 6), y: box.top + 12, "text-anchor": side }, `limit ${format(limit)}`);
  }
  if (supposed !== null) shape(svg, "line", { class: "supposed", x1: x(supposed), x2: x(supposed), y1: box.top, y2: box.bottom });
}

// The score on a bar whose middle is the limit: how far from the decision, at a glance.
export function meter(svg, score, limit, colour) {
  const high = Math.max(2 * limit, score * 1.05) || 1;
  svg.replaceChildren();
  svg.setAttribute("viewBox", "0 0 1000 24");
  shape(svg, "rect", { x: 0, y: 4, width: 1000, height: 16, rx: 4, fill: "#26313c" });
  shape(svg, "rect", { x: 0, y: 4, width: Math.max(4, Math.min(1000, (1000 * score) / high)), height: 16, rx: 4, fill: colour });
  shape(svg, "rect", { x: (1000 * limit) / high - 3, y: 0, width: 6, height: 24, fill: "#f2f6fa" });
}

function nothing(svg, text) {
  svg.replaceChildren();
  const width = svg.clientWidth || 600, height = svg.clientHeight || 240;
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  shape(svg, "text", { x: width / 2, y: height / 2, "text-anchor": "middle" }, text);
}
