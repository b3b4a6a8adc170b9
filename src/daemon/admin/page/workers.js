// State of a worker: word and color. What is planned has no color.
const LOADED = 0.1, OVERDUE = 3;
const UNRESPONSIVE = ['unresponsive', 'bad'];
const overdue = (worker) => worker.heartbeat_age_seconds > OVERDUE;
function condition(slot, worker, p99, phase) {
  if (slot.state === 'backoff') return [`restart in ${time(slot.backoff_seconds)}`, 'bad'];
  if (slot.state === 'empty') return ['no worker', phase === 'starting' ? '' : 'bad'];
  if (slot.state === 'booting') return ['starting', ''];
  if (slot.state === 'hung' || (worker && overdue(worker))) return UNRESPONSIVE;
  if (worker && worker.stage !== 'serving') return [worker.stage, ''];
  if (worker && worker.paused) return ['accept paused', 'warn'];
  if (slot.queue_limit && slot.queue_length > slot.queue_limit / 2) return ['long accept queue', 'warn'];
  if (p99 > LOADED) return ['slow event loop', 'warn'];
  return ['serving', 'good'];
}
const COLUMNS = ['Slot', 'PID', 'State', 'Connections', 'New/s', 'Messages/s', 'Received', 'Sent', 'Accept queue', 'Loop p99',
  'Restarts', 'Up'];
by('head').append(...COLUMNS.map((name) => node('th', name)));
const SIGNS = { good: '✓ ', warn: '! ', bad: '✕ ' };
function row(slot, pid, [word, color], ...rest) {
  const made = node('tr', undefined, color === 'good' ? '' : color);
  const cells = [slot, pid, '', ...rest].map((text, i) => {
    const cell = node('td', text);
    cell.dataset.name = COLUMNS[i];
    return cell;
  });
  if (word) cells[2].append(node('span', (SIGNS[color] || '') + word, 'badge ' + color));
  made.append(...cells);
  return made;
}
const silence = (worker) => `heartbeat ${time(worker.heartbeat_age_seconds)} ago`;
const traffic = (rates) => [short(rates.connections), short(rates.messages), short(rates.received, 'B/s'), short(rates.sent, 'B/s')];
const queue = (length, limit) => `${whole(length)} / ${whole(limit)}`;
const stateOf = (worker) => overdue(worker) ? UNRESPONSIVE : [worker.stage === 'booting' ? 'starting' : worker.stage, ''];
// A worker with the traffic of its slot, or a slot without a worker.
function slotRow(slot, worker, phase) {
  const p99 = lag(slot.slot, slot.figures.event_loop_lag);
  const state = worker === slot.worker ? condition(slot, worker, p99, phase) : stateOf(worker);
  const silent = worker && state === UNRESPONSIVE;
  const made = row(slot.slot, worker ? worker.pid : '–', state, whole(worker ? worker.connections : 0),
    ...traffic(slot.rates['1s']), queue(slot.queue_length, slot.queue_limit),
    silent ? silence(worker) : bound(p99), list(slot.restarts), worker ? time(worker.age_seconds) : '–');
  // Replaces the percentile, which says nothing about a loop that does not run.
  if (silent) made.children[COLUMNS.indexOf('Loop p99')].className = 'wide';
  return made;
}
// A worker that has left its slot, or is about to take it over. Rates are known by slot only.
function otherRow(worker) {
  const made = row(`${worker.slot}, ${worker.stage === 'booting' ? 'new' : 'old'}`, worker.pid, stateOf(worker), whole(worker.connections),
    ...Array(7).fill(''), time(worker.age_seconds));
  made.classList.add('other');
  const cells = [...made.children], note = cells[4];
  cells.slice(5, 11).forEach((cell) => cell.remove());
  [note.colSpan, note.className, note.dataset.name] = [7, 'note', ''];
  note.textContent = (overdue(worker) ? silence(worker) + '; ' : '') + `traffic counted in slot ${worker.slot}`;
  return made;
}

const FOLD = 12;
let unfolded = false;
by('fold').addEventListener('click', () => { unfolded = !unfolded; foldRows(); });
// Hides all but the first rows and those that need attention.
function foldRows() {
  const rows = [...by('workers').children], many = rows.length > FOLD, button = by('fold');
  rows.forEach((row, i) => { row.hidden = many && !unfolded && i >= FOLD && !/\b(bad|warn)\b/.test(row.className); });
  button.hidden = !many;
  button.textContent = unfolded ? 'Show fewer workers' : `Show all ${rows.length} workers`;
}
function workers(all) {
  // Draining workers have left their slots, which get no new ones.
  const wanted = all.phase === 'draining' ? 0 : all.workers.wanted;
  const others = (slot) => all.others.filter((worker) => worker.slot === slot.slot);
  const shown = all.slots.filter((slot) => slot.slot <= wanted || slot.state !== 'empty' || others(slot).length);
  const rows = shown.flatMap((slot) => {
    const [left, vacant] = [others(slot), slot.state === 'empty' && slot.slot > wanted];
    const worker = vacant ? left.shift() : slot.worker;
    return [slotRow(slot, worker, all.phase), ...left.map(otherRow)];
  });
  by('workers').replaceChildren(...rows);
  foldRows();
  total(all, shown, rows.length);
}
function restarts(slots) {
  const all = {};
  for (const slot of slots)
    for (const [cause, count] of nonzero(slot.restarts)) all[cause] = (all[cause] || 0) + count;
  return all;
}
function total(all, shown, rows) {
  const add = (value) => shown.reduce((sum, slot) => sum + value(slot), 0);
  const inSlots = shown.flatMap((slot) => slot.worker || []);
  const open = [...inSlots, ...all.others].reduce((sum, worker) => sum + worker.connections, 0);
  const rates = {};
  for (const key of ['connections', 'messages', 'received', 'sent']) rates[key] = add((slot) => slot.rates['1s'][key]);
  const made = row('Total', '', ['', ''], whole(open), ...traffic(rates),
    queue(add((slot) => slot.queue_length), add((slot) => slot.queue_limit)), '', list(restarts(shown)), '');
  [...made.children].forEach((cell) => cell.classList.toggle('empty', !cell.textContent));
  by('total').replaceChildren(...(rows > 1 ? [made] : []));
}
