// Golden parts: which must be judged right before any part gets an OK, and how the line is released after a wrong one.
import { byId, clock, element, number, post } from "./api.js";

let drawn = "";

// Shows the first station whose OK is blocked, and returns its report; null where none is.
export function show(reports) {
  const report = reports.find((one) => one.blocks) ?? null;
  const node = byId("golden");
  node.hidden = !report;
  const wanted = report ? JSON.stringify([report.station, report.state, report.why, report.parts]) : "";
  if (wanted === drawn) return report; // a form that is being filled in is not drawn anew
  drawn = wanted;
  node.replaceChildren(...(report ? content(report, reports.length > 1) : []));
  return report;
}

function content(report, several) {
  const where = several ? `${report.station}: ` : "";
  const wrong = report.state === "blocked";
  return [
    element("h2", {}, wrong ? `${where}No OK: a golden part was judged wrong` : `${where}No OK yet: golden parts are due`),
    element("p", {}, wrong
      ? `Since ${clock(report.since)} every part that would be OK is held back. Find out why, then release the line.`
      : `Demanded because of: ${report.why}. ${report.kind === "parts" ? "Show the parts below to the camera." : "They are being inspected."}`),
    element("table", {}, element("thead", {}, element("tr", {}, ...["Golden part", "must be", "was", "score", "limit"].map((text) => element("th", {}, text)))),
      element("tbody", {}, ...report.parts.map(row))),
    wrong ? release(report) : null,
  ].filter(Boolean);
}

function row(part) {
  const name = part.part.split("/").slice(-2).join("/");
  return element("tr", { "data-wrong": String(part.wrong) },
    element("td", { title: part.part }, name), element("td", {}, part.expected),
    element("td", {}, part.decision ? `${part.wrong ? "✕" : "✓"} ${part.decision}` : "not shown yet"),
    element("td", {}, number(part.score)), element("td", {}, number(part.threshold)));
}

function release(report) {
  const field = (name, text, more = {}) => element("label", {}, text, element("input", { name, autocomplete: "off", ...more }));
  const said = element("span", { role: "status" });
  const form = element("form", {}, field("by", "Your name", { required: "" }), field("note", "What was found"),
    field("token", "Token", { type: "password", required: "" }), element("button", {}, "Release the line"),
    element("button", { type: "button", onclick: () => send("repeat", { station: report.station }, said) }, "Repeat the check"), said);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    send("release", { station: report.station, ...Object.fromEntries(new FormData(form)) }, said);
  });
  return form;
}

async function send(what, body, said) {
  try {
    await post(`api/golden/${what}`, body);
    said.textContent = what === "repeat" ? "Asked for" : "Released";
  } catch (error) { said.textContent = error.message; }
}
