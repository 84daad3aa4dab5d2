// Lines over the last minutes, as SVG, each with its newest values in words beside it.

import { askText } from "./server.js";
import { el, find, number, seconds, svg } from "./dom.js";
import { buckets, mean, parse, percentile, rate } from "./metrics.js";

const SAMPLES = 150;
const COUNTED = /_(total|count|bucket)(\{|$)/;
const [WIDTH, HEIGHT, LEFT, FOOT] = [340, 120, 54, 16];

const latency = name => (before, now) => {
  const counted = buckets(before, now, name);
  return [0.5, 0.99].map(part => percentile(counted, part));
};

// What is drawn: a title, the names of its lines, how a value is said, and how it comes
// of two readings.
const DRAWN = [
  { id: "uploads", title: "Uploads", unit: "per second", lines: ["uploads"], say: number,
    take: (b, n, s) => [rate(b, n, 'oversync_uploads_total{status="answered"}', s)] },
  { id: "changes", title: "Changes", unit: "per second", lines: ["applied", "conflict", "invalid"], say: number,
    take: (b, n, s) => ["applied", "conflict", "invalid"].map(name => rate(b, n, `oversync_changes_total{status="${name}"}`, s)) },
  { id: "downloads", title: "Downloads", unit: "per second", lines: ["pages", "nothing new"], say: number,
    take: (b, n, s) => [rate(b, n, 'oversync_downloads_total{status="answered"}', s), rate(b, n, "oversync_quiet_downloads_total", s)] },
  { id: "hint-latency", title: "Commit to hint", unit: "", lines: ["median", "99 %"], say: seconds, take: latency("oversync_hint_seconds") },
  { id: "upload-latency", title: "Upload answered in", unit: "", lines: ["median", "99 %"], say: seconds, take: latency("oversync_upload_seconds") },
  { id: "group", title: "Uploads per group commit", unit: "", lines: ["mean", "99 %"], say: number,
    take: (b, n) => [mean(b, n, "oversync_commit_uploads"), percentile(buckets(b, n, "oversync_commit_uploads"), 0.99)] },
];

let last = null;
const history = new Map(DRAWN.map(chart => [chart.id, []]));

export async function sample() {
  const now = { at: performance.now(), values: parse(await askText("/metrics")) };
  if (last) {
    const passed = (now.at - last.at) / 1000;
    // A server that has begun anew counts from 0: something has gone down, or is not there yet.
    const isSame = [...last.values].every(([key, value]) => !COUNTED.test(key) || now.values.get(key) >= value);
    for (const chart of DRAWN) {
      const points = history.get(chart.id);
      points.push({ at: now.at, values: isSame ? chart.take(last.values, now.values, passed) : chart.lines.map(() => null) });
      if (points.length > SAMPLES) points.shift();
    }
  }
  last = now;
  return now.values;
}

export function forget() {
  last = null;
  for (const points of history.values()) points.length = 0;
}

// A round number at or above the highest value.
function ceiling(value) {
  if (!(value > 0)) return 1;
  const size = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map(step => step * size).find(step => step >= value);
}

function path(points, place, top) {
  const newest = points.length ? points[points.length - 1].at : 0;
  const x = at => LEFT + (WIDTH - LEFT - 4) * (1 - (newest - at) / (SAMPLES * 2000));
  const y = value => 6 + (HEIGHT - FOOT - 6) * (1 - value / top);
  let text = "";
  let isDown = false;
  for (const { at, values } of points) {
    const value = values[place];
    if (value === null) { isDown = false; continue; }
    text += `${isDown ? "L" : "M"}${x(at).toFixed(1)} ${y(value).toFixed(1)}`;
    // A point alone is a short line.
    if (!isDown) text += "h.01";
    isDown = true;
  }
  return text;
}

function draw(chart) {
  const points = history.get(chart.id);
  const top = ceiling(Math.max(0, ...points.flatMap(point => point.values.filter(value => value !== null))));
  const newest = points.length ? points[points.length - 1].values : chart.lines.map(() => null);
  const said = chart.lines.map((name, place) => (chart.lines.length > 1 ? name + " " : "") + chart.say(newest[place]));
  const told = points.length ? said.join(", ") + (chart.unit ? " " + chart.unit : "") : "waiting for the second reading";
  const base = HEIGHT - FOOT;
  const title = `${chart.title} over the last five minutes; highest on the scale ${chart.say(top)}; now ${told}`;
  const picture = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": title },
    [6, (6 + base) / 2, base].map(y => svg("line", { class: "axis", x1: LEFT, x2: WIDTH - 4, y1: y, y2: y })),
    svg("text", { x: LEFT - 5, y: 10, "text-anchor": "end" }, chart.say(top)),
    svg("text", { x: LEFT - 5, y: base, "text-anchor": "end" }, "0"),
    svg("text", { x: LEFT, y: HEIGHT - 3 }, "5 min ago"),
    svg("text", { x: WIDTH - 4, y: HEIGHT - 3, "text-anchor": "end" }, "now"),
    chart.lines.map((_, place) => svg("path", { class: `line line-${place}`, d: path(points, place, top) })));
  const legend = chart.lines.length < 2 ? null : el("p", { class: "legend", "aria-hidden": "true" }, chart.lines.map((name, place) =>
    el("span", null, svg("svg", { viewBox: "0 0 26 8" }, svg("path", { class: `line line-${place}`, d: "M0 4h26" })), name)));
  return el("figure", { class: "chart", id: "chart-" + chart.id },
    el("figcaption", null, el("span", null, chart.title), el("output", null, told)), picture, legend);
}

export function drawAll() {
  find("charts").replaceChildren(...DRAWN.map(draw));
}
