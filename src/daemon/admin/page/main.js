// A definition list of name, value, and color.
function define(id, shown) {
  by(id).replaceChildren(...shown.map(([name, value, color]) => {
    const pair = node('div', undefined, color === 'zero' ? color : ''), definition = node('dd');
    definition.append(color && color !== 'zero' ? node('span', value, 'badge ' + color) : value);
    pair.append(node('dt', name), definition);
    return pair;
  }));
}
const REASONS = {
  client_fin: 'closed by client', reset: 'reset by client', idle: 'idle timeout', write_timeout: 'write timeout', drain: 'drained',
  drain_deadline: 'drain deadline', answered: 'ended by service', error: 'error', worker_died: 'worker died',
};
const LOSSES = ['write_timeout', 'drain_deadline', 'error'];
function totals({ totals, slots, reloads, log_lines_dropped, admin_restarts }) {
  const optional = (name, value, color) => value ? [[name, short(value, 'B'), color]] : [];
  define('totals', [
    ['Accepted', whole(totals.connections_accepted)],
    ['Messages', whole(totals.messages)],
    ['Received', short(totals.bytes_received, 'B')],
    ['Sent', short(totals.bytes_sent, 'B')],
    ...optional('Consumed', totals.bytes_consumed),
    ...optional('Injected', totals.bytes_injected),
    ['Waiting to be sent', short(totals.bytes_buffered, 'B')],
    ...optional('Abandoned', totals.bytes_abandoned, 'warn'),
    // Bytes in flight are not lost.
    totals.connections_active ? ['In flight', short(totals.bytes_lost, 'B')]
      : ['Lost', short(totals.bytes_lost, 'B'), totals.bytes_lost ? 'bad' : ''],
    ['Accept errors', list(totals.accept_errors), sum(totals.accept_errors) ? 'warn' : ''],
    ['Accept pauses', whole(totals.accept_pauses)],
    ['Workers replaced', list(restarts(slots))],
    ['Admin replaced', whole(admin_restarts)],
    ['Reloads', whole(reloads.done) + (reloads.failed ? `, ${whole(reloads.failed)} failed` : '')],
    ['Log lines dropped', whole(log_lines_dropped)],
  ]);
  define('closed', Object.entries(totals.connections_closed).map(([reason, count]) => {
    const color = !count ? 'zero' : reason === 'worker_died' ? 'bad' : LOSSES.includes(reason) ? 'warn' : '';
    return [REASONS[reason] || reason, whole(count), color];
  }));
}

function health(all) {
  const { healthy, wanted, min_healthy } = all.workers, badge = by('health');
  const names = { starting: 'starting', draining: 'draining', reloading: 'reloading', serving: 'healthy' };
  let [word, color, notice] = [names[all.phase] || all.phase, 'good', ''];
  const silence = all.controller_silence_seconds;
  if (silence >= 10)
    [word, color, notice] = ['not ready', 'bad', `The controller has not responded for ${time(silence)}. Failed workers are not replaced.`];
  else if (all.phase === 'draining') [color, notice] = ['warn', 'The daemon is stopping: it drains its connections.'];
  else if (all.phase === 'starting') color = 'warn';
  else if (!all.ready) [word, color, notice] = ['not ready', 'bad', `${healthy} of ${wanted} workers are healthy, ${min_healthy} needed.`];
  else if (healthy < wanted) [word, color, notice] = ['degraded', 'warn', `${healthy} of ${wanted} workers are healthy.`];
  [badge.textContent, badge.className] = [word, 'badge ' + color];
  document.title = (color === 'good' ? '' : `${word} – `) + 'tcp-echo';
  by('about').textContent = `${healthy} of ${plural(wanted, 'worker')} · up ${time(all.uptime_seconds)} · version\u00a0${all.version} · pid\u00a0${all.pid}`;
  say(notice, color);
}
function say(text, color) {
  if (by('notice').textContent !== text) by('notice').textContent = text;
  by('notice').className = color;
}

function show(all, seconds) {
  const rates = all.rates['1s'], average = all.rates['10s'];
  health(all);
  charts.connections.add(all.totals.connections_active, `${short(rates.connections)} new/s`, seconds);
  charts.messages.add(rates.messages, `10 s avg ${short(average.messages)}`, seconds);
  charts.received.add(rates.received, `10 s avg ${short(average.received, 'B/s')}`, seconds);
  charts.sent.add(rates.sent, `10 s avg ${short(average.sent, 'B/s')}`, seconds);
  charts.lag.add(lag('all', all.totals.event_loop_lag), `last ${WINDOW} s`, seconds);
  const queued = all.slots.reduce((count, slot) => count + slot.queue_length, 0);
  const limit = all.slots.reduce((count, slot) => count + slot.queue_limit, 0);
  charts.queue.add(queued, `limit ${whole(limit)}`, seconds);
  workers(all);
  totals(all);
  events(all);
}

let failures = 0, answered, shown = performance.now() - POLL;
async function fetchStats() {
  try {
    const answer = await fetch('stats', { cache: 'no-store', signal: AbortSignal.timeout(TIMEOUT) });
    return answer.ok ? await answer.json() : null;
  } catch {
    return null;
  }
}
async function poll() {
  const begun = performance.now();
  const all = await fetchStats();
  const seconds = Math.min(Math.max(Math.round((performance.now() - shown) / POLL), 1), HISTORY);
  shown = performance.now();
  if (all) {
    failures = 0;
    answered = new Date();
    document.body.className = '';
    try {
      show(all, seconds);
    } catch {
      say('The server sends statistics of another version. Reload this page.', 'bad');
    }
  } else {
    failures += 1;
    for (const chart of Object.values(charts)) chart.add(null, '', seconds);
    // Tolerates a single failed poll.
    if (failures > 1) showLost();
  }
  setTimeout(poll, Math.max(POLL - (performance.now() - begun), 100));
}
function showLost() {
  const since = answered ? ` since ${answered.toLocaleTimeString('en-GB')}` : '';
  document.body.className = 'stale';
  [by('health').textContent, by('health').className] = ['unreachable', 'badge bad'];
  by('about').textContent = by('about').textContent.replace(/^(last seen: )?/, 'last seen: ');
  document.title = 'unreachable – tcp-echo';
  say(`No response from the server${since}. Retrying every second.`, 'bad');
}
const redraw = () => Object.values(charts).forEach((chart) => chart.draw());
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', redraw);
addEventListener('resize', redraw);
poll();
