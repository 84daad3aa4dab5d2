// Reading /metrics, the same text that Prometheus reads, and what two readings of it
// say of the time between them.

// { "name{labels}": value }
export function parse(text) {
  const values = new Map();
  for (const line of text.split("\n")) {
    if (!line || line.startsWith("#")) continue;
    const end = line.lastIndexOf(" ");
    values.set(line.slice(0, end), Number(line.slice(end + 1)));
  }
  return values;
}

const rise = (before, now, key) => Math.max(0, (now.get(key) ?? 0) - (before.get(key) ?? 0));

export const rate = (before, now, key, seconds) => rise(before, now, key) / seconds;

// What was counted in the buckets of a histogram between two readings: [upper bound, count].
export function buckets(before, now, name) {
  const found = [];
  for (const key of now.keys()) {
    if (!key.startsWith(name + "_bucket{")) continue;
    const bound = /le="([^"]+)"/.exec(key)[1];
    found.push([bound === "+Inf" ? Infinity : Number(bound), rise(before, now, key)]);
  }
  return found.sort(([a], [b]) => a - b);
}

// A percentile of such buckets, as far as they tell: inside of one, values are taken
// to lie evenly. Null where nothing was counted.
export function percentile(counted, part) {
  const all = counted.length ? counted[counted.length - 1][1] : 0;
  if (!all) return null;
  let [low, below] = [0, 0];
  for (const [bound, count] of counted) {
    if (count >= part * all) {
      if (bound === Infinity) return low;
      return low + (bound - low) * ((part * all - below) / Math.max(1, count - below));
    }
    [low, below] = [bound, count];
  }
  return low;
}

export function mean(before, now, name) {
  const count = rise(before, now, name + "_count");
  return count ? rise(before, now, name + "_sum") / count : null;
}
