"use strict";
// A threshold to try, in each category: drag the line, use the slider or its keys. Nothing of the detector changes.
const number = new Intl.NumberFormat("en");
const above = (scores, threshold) => scores.reduce((count, score) => count + (score > threshold), 0);
const plural = (count, noun) => `${number.format(count)} ${noun}${count === 1 ? "" : "s"}`;

/** P(X <= events) of a binomial distribution. */
function binomialCdf(events, trials, rate) {
  let log = trials * Math.log1p(-rate), sum = 0;
  for (let i = 0; i <= events; i++) {
    sum += Math.exp(log);
    log += Math.log((trials - i) / (i + 1)) + Math.log(rate) - Math.log1p(-rate);
  }
  return sum;
}

/** The rate is at most this with 95 % confidence (Clopper and Pearson). */
function upperBound(events, trials) {
  let low = events / trials, high = 1;
  for (let i = 0; i < 60 && events < trials; i++) {
    const middle = (low + high) / 2;
    if (binomialCdf(events, trials, middle) > 0.05) low = middle; else high = middle;
  }
  return high;
}

/** What a share seen on a few photos means for the parts of a shift; "" where nothing was tested. */
function inAShift(events, trials, parts, noun) {
  if (!trials || !(parts > 0)) return "";
  const expected = Math.round(events / trials * parts), most = Math.ceil(upperBound(events, trials) * parts);
  return `${plural(expected, noun)} (with 95 % confidence at most ${number.format(most)})`;
}

class Panel {
  constructor(element) {
    this.element = element;
    this.data = JSON.parse(element.querySelector("script").textContent);
    this.bad = Object.values(this.data.kinds).flat();
    this.slider = element.querySelector("input[type=range]");
    this.histogram = element.querySelector(".histogram");
    this.slider.addEventListener("input", () => this.set(this.at(this.slider.value / this.slider.max)));
    for (const button of element.querySelectorAll("button")) {
      const target = this.target(button.dataset.to);
      button.hidden = target === null;
      button.addEventListener("click", () => this.set(target));
    }
    const drag = event => { if (event.buttons & 1) this.set(this.at(this.share(event.clientX))); };
    this.histogram.addEventListener("pointerdown", event => {
      this.histogram.setPointerCapture(event.pointerId);
      drag(event);
    });
    this.histogram.addEventListener("pointermove", drag);
    element.classList.add("dragged");
    for (const hidden of element.querySelectorAll("[hidden]:not(button)")) hidden.hidden = false;
    this.set(this.data.start);
  }

  /** The threshold that a button means; null where there is none. */
  target(name) {
    if (name === "calibrated") return this.data.calibrated;
    if (name === "no-alarm") return this.data.good.length ? Math.max(...this.data.good) : null;
    if (!this.bad.length) return null;
    const lowest = Math.min(...this.bad), below = [...this.data.good, ...this.bad].filter(score => score < lowest);
    return below.length ? (Math.max(...below) + lowest) / 2 : this.data.ends[0];
  }

  at(share) {
    const [low, high] = this.data.ends;
    return low + Math.min(1, Math.max(0, share)) * (high - low);
  }

  /** Where a pointer is along the histogram's axis, 0..1. */
  share(clientX) {
    const [left, width] = this.histogram.dataset.area.split(" ").map(Number);
    const box = this.histogram.getBoundingClientRect();
    return ((clientX - box.left) / box.width * this.histogram.viewBox.baseVal.width - left) / width;
  }

  set(threshold) {
    this.threshold = threshold;
    const [low, high] = this.data.ends, share = (threshold - low) / (high - low);
    this.slider.value = share * this.slider.max;
    this.slider.setAttribute("aria-valuetext", threshold.toPrecision(4));
    const [left, width, top, height] = this.histogram.dataset.area.split(" ").map(Number);
    place(this.element.querySelector(".histogram .threshold"), "x", left + width * share);
    place(this.element.querySelector(".order .threshold"), "y", top + height * (1 - share));
    this.count();
  }

  count() {
    const alarms = above(this.data.good, this.threshold), missed = this.bad.length - above(this.bad, this.threshold);
    const { calibrated } = this.data;
    const name = this.threshold === calibrated ? "At the calibrated threshold" : "At";
    const shift = [
      inAShift(alarms, this.data.good.length, document.getElementById("good-parts").valueAsNumber, "false alarm"),
      inAShift(missed, this.bad.length, document.getElementById("bad-parts").valueAsNumber, "missed defect"),
    ].filter(Boolean).join(" and ");
    const own = this.threshold === calibrated ? ""
      : " A threshold chosen by these photos looks better than it is; edgead calibrate sets one that keeps a promise.";
    this.element.querySelector(".counts").textContent =
      `${name} ${this.threshold.toPrecision(4)}: ${alarms} of ${plural(this.data.good.length, "good photo")} rejected, ` +
      `${missed} of ${plural(this.bad.length, "defect")} missed.${shift && ` A shift would see about ${shift}.`}${own}`;
    this.element.querySelectorAll(".kind").forEach((row, i) => {
      const scores = Object.values(this.data.kinds)[i], found = above(scores, this.threshold);
      row.querySelector("i").style.width = `${100 * found / scores.length}%`;
      row.querySelector("output").textContent = `${found} of ${scores.length} found`;
    });
  }
}

function place(line, axis, value) {
  line.setAttribute(`${axis}1`, value);
  line.setAttribute(`${axis}2`, value);
}

const panels = [...document.querySelectorAll(".panel")].map(element => new Panel(element));
for (const line of document.querySelectorAll(".shift")) line.hidden = false;
for (const input of document.querySelectorAll(".shift input"))
  input.addEventListener("input", () => panels.forEach(panel => panel.count()));
