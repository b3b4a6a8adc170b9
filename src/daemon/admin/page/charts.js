'use strict';
const POLL = 1000, TIMEOUT = 3000, HISTORY = 120, WINDOW = 10;
const by = (id) => document.getElementById(id);
const node = (tag, text, name) => {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (name) made.className = name;
  return made;
};

// Numbers in a readable form.
const SCALE = [[1e12, ' T'], [1e9, ' G'], [1e6, ' M'], [1e4, ' k', 1e3]];
function short(value, unit = '') {
  for (const [from, letter, by] of SCALE)
    if (value >= from) {
      const part = value / (by || from);
      return part.toFixed(part < 10 ? 2 : part < 100 ? 1 : 0) + letter + unit;
    }
  const digits = Number.isInteger(value) || value >= 100 ? 0 : 1;
  return value.toFixed(digits) + (unit && ' ' + unit);
}
const whole = (value) => value.toLocaleString('en-US').replaceAll(',', '\u202f');
const plural = (count, noun) => `${whole(count)} ${noun}${count === 1 ? '' : 's'}`;
function time(seconds) {
  if (seconds < 0.001) return Math.round(seconds * 1e6) + ' µs';
  if (seconds < 1) return Math.round(seconds * 1e4) / 10 + ' ms';
  if (seconds < 60) return seconds.toFixed(1) + ' s';
  const [d, h, m] = [seconds / 86400, seconds / 3600 % 24, seconds / 60 % 60].map(Math.floor);
  return d ? `${d} d ${h} h` : h ? `${h} h ${m} min` : `${m} min ${Math.floor(seconds % 60)} s`;
}
// Bound of a histogram bucket; the last bucket has none.
const bound = (seconds) => seconds === null ? '–' : seconds === Infinity ? '> 2.5 s' : '≤ ' + time(seconds);
const sum = (counted) => Object.values(counted).reduce((all, count) => all + count, 0);
const nonzero = (counted) => Object.entries(counted).filter(([, count]) => count);
const list = (counted) => nonzero(counted).map(([name, count]) => `${whole(count)} ${name}`).join(', ') || '0';

// Bucket bound of the 99th percentile of recent loop iterations, from the increase of the histogram; null if
// there were none.
const lags = new Map();
function lag(key, histogram) {
  const now = histogram.buckets.map(([, count]) => count);
  const past = lags.get(key) || [];
  const last = past[past.length - 1];
  // The counters were reset: the daemon was restarted.
  if (last && now.some((count, i) => count < last[i])) past.length = 0;
  past.push(now);
  if (past.length > WINDOW + 1) past.shift();
  lags.set(key, past);
  const gained = now.map((count, i) => count - past[0][i]);
  const all = gained[gained.length - 1];
  if (!all) return null;
  return histogram.buckets[gained.findIndex((count) => count >= 0.99 * all)][0] ?? Infinity;
}

// A chart of the last two minutes. Seconds without a response are gaps.
class Chart {
  constructor(title, say) {
    [this.values, this.say] = [[], say];
    const card = node('div', undefined, 'card');
    this.output = node('output', '–');
    this.note = node('small', '…');
    this.canvas = node('canvas');
    this.canvas.setAttribute('role', 'img');
    this.canvas.setAttribute('aria-label', `${title}, the last two minutes`);
    const axis = node('div', undefined, 'axis');
    axis.append(node('span', '2 min'), this.peak = node('span'), node('span', 'now'));
    card.append(node('h3', title), this.output, this.note, this.canvas, axis);
    by('charts').append(card);
    this.canvas.addEventListener('pointermove', (event) => this.point(event));
    this.canvas.addEventListener('pointerleave', () => { this.at = undefined; this.draw(); });
  }
  // Repeats the value for each second since the last poll, which may be late.
  add(value, note, seconds) {
    for (let i = 0; i < seconds; i++) this.values.push(value);
    this.values.splice(0, this.values.length - HISTORY);
    if (note) this.note.textContent = note;
    this.draw();
  }
  point(event) {
    const box = this.canvas.getBoundingClientRect();
    this.at = Math.round((event.clientX - box.left) / box.width * (HISTORY - 1)) - (HISTORY - this.values.length);
    this.draw();
  }
  draw() {
    const { canvas, values } = this, ratio = devicePixelRatio || 1;
    const { clientWidth: width, clientHeight: height } = canvas;
    const known = values.filter((value) => value !== null);
    const top = Math.max(...known.filter(Number.isFinite), 0) * 1.1 || 1;
    const pen = canvas.getContext('2d');
    [canvas.width, canvas.height] = [width * ratio, height * ratio];
    pen.scale(ratio, ratio);
    const style = getComputedStyle(document.documentElement);
    const color = (name) => style.getPropertyValue(name).trim();
    const x = (i) => (i + HISTORY - values.length) / (HISTORY - 1) * width;
    const y = (value) => height - 1 - Math.min(value / top, 1) * (height - 4);
    pen.strokeStyle = color('--rule');
    pen.strokeRect(-1, .5, width + 2, height - 1);
    for (let i = 0, from = 0; i <= values.length; i++) {
      if (i < values.length && values[i] !== null) continue;
      if (i > from) {
        pen.beginPath();
        for (let j = from; j < i; j++) pen.lineTo(x(j), y(values[j]));
        pen.strokeStyle = color('--line');
        [pen.lineWidth, pen.lineJoin] = [1.75, 'round'];
        pen.stroke();
        [i - 1, from].forEach((at) => pen.lineTo(x(at), height));
        pen.fillStyle = color('--fill');
        pen.fill();
      }
      from = i + 1;
    }
    const pointed = this.values[this.at], shown = pointed ?? values[values.length - 1];
    this.output.textContent = shown === null || shown === undefined ? '–' : this.say(shown);
    this.peak.textContent = pointed != null ? `${values.length - 1 - this.at} s ago`
      : known.length ? `peak ${this.say(Math.max(...known))}` : '';
    if (pointed != null) {
      pen.fillStyle = color('--ink');
      pen.fillRect(x(this.at) - .5, 0, 1, height);
    }
  }
}
const charts = {
  connections: new Chart('Connections', whole),
  messages: new Chart('Messages/s', (value) => short(value)),
  received: new Chart('Received', (value) => short(value, 'B/s')),
  sent: new Chart('Sent', (value) => short(value, 'B/s')),
  lag: new Chart('Event loop p99', bound),
  queue: new Chart('Accept queues', whole),
};
