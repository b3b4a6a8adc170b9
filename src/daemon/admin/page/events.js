// Events: color, and text for the value.
const EVENTS = {
  serving: ['good', (v) => `serving with ${plural(v, 'worker')}`],
  worker_ready: ['', (v) => `worker ready, pid ${v}`],
  backoff: ['warn', (v) => `worker restart delayed by ${time(v / 1000)}`],
  worker_unresponsive: ['bad', (v) => `worker unresponsive, pid ${v}`],
  worker_responsive: ['good', (v) => `worker responsive again, pid ${v}`],
  worker_hung: ['bad', (v) => `worker hung, pid ${v}`],
  worker_not_ready: ['bad', (v) => v ? `worker did not become ready, pid ${v}` : 'slot abandoned: its worker cannot start'],
  reloading: ['', () => 'reloading'],
  reloaded: ['good', (v) => `reloaded (${whole(v)} in total)`],
  reload_failed: ['bad', (v) => `reload failed (${whole(v)} in total)`],
  scaled: ['', (v) => `scaled to ${plural(v, 'worker')}`],
  stopping: ['', (v) => `stopping, accepting for another ${time(v / 1000)}`],
  draining: ['', () => 'draining'],
  killing: ['bad', (v) => `killing the remaining ${plural(v, 'worker')}`],
  accepting_paused: ['warn', (v) => 'accept paused: ' + (v === 1 ? 'at the connection limit' : 'out of descriptors or memory')],
  accepting_resumed: ['good', () => 'accept resumed'],
  admin_exited: ['warn', (v) => `admin process exited, replaced, pid ${v}`],
};
const CAUSES = { exit: 'exited by itself', signal: 'killed by a signal', boot: 'exited before it was ready' };
const KEPT_EVENTS = 128;
// Color and reason of each exit. Events have the pid only: the reason follows from the events before, or from the
// restarts of the slot, which do not count planned exits.
function exits(all) {
  const current = new Map(), ready = new Set(), failed = new Map(), found = new Map();
  let stopping = false, wanted = Infinity;
  const reason = ({ slot, value }) => {
    if (failed.has(value)) return ['warn', failed.get(value)];
    if (stopping) return ['', 'stopped'];
    if (slot > wanted) return ['', 'scaled down'];
    // The event of a worker that became ready long ago may be gone.
    const served = ready.has(value) || all.events.length >= KEPT_EVENTS;
    if (served && current.has(slot) && current.get(slot) !== value) return ['', 'replaced'];
    const { restarts } = all.slots.find((one) => one.slot === slot) || {};
    const causes = Object.keys(CAUSES).filter((cause) => restarts?.[cause]);
    return causes.length ? ['bad', causes.map((cause) => CAUSES[cause]).join(' or ')] : ['', 'retired'];
  };
  for (const event of [...all.events].reverse()) {
    const { kind, slot, value } = event;
    if (kind === 'worker_ready') ready.add(value), current.set(slot, value);
    if (kind === 'worker_hung') failed.set(value, 'hung');
    if (kind === 'worker_not_ready') failed.set(value, 'did not become ready');
    if (kind === 'stopping' || kind === 'draining') stopping = true;
    if (kind === 'scaled') wanted = value;
    if (kind === 'worker_exited') found.set(event, reason(event));
  }
  return found;
}
function eventItem({ at_ms, slot }, color, ...content) {
  const item = node('li'), stamp = node('time', new Date(at_ms).toLocaleTimeString('en-GB'));
  stamp.dateTime = new Date(at_ms).toISOString();
  item.append(stamp, node('span', slot ? `slot ${slot}` : 'daemon', 'badge ' + color), ...content);
  return item;
}
const RUN = 3, SHOWN_EVENTS = 25, opened = new Set();
let drawn;
// Folds each run of workers that became ready or exited as planned.
function events(all) {
  const key = JSON.stringify([all.events, all.slots.map((slot) => slot.restarts)]);
  if (key === drawn) return;
  drawn = key;
  const reasons = exits(all), runs = [];
  for (const event of all.events) {
    const { kind, value } = event, exit = reasons.get(event), last = runs[runs.length - 1];
    const [color, say] = exit ? [exit[0], (v) => `worker exited, pid ${v}: ${exit[1]}`] : EVENTS[kind] || ['', (v) => `${kind} ${v}`];
    const line = { event, color, text: say(value) };
    const routine = kind === 'worker_ready' || (exit && !color);
    if (routine && last && last.routine) last.lines.push(line);
    else runs.push({ routine, lines: [line] });
  }
  const items = runs.flatMap(({ lines }) => {
    const made = lines.map(({ event, color, text }) => eventItem(event, color, node('span', text)));
    return lines.length < RUN ? made : [folded(lines.map(({ event }) => event), made)];
  });
  by('events').replaceChildren(...(items.length ? items.slice(0, SHOWN_EVENTS) : [node('li', 'none yet')]));
}
function folded(run, items) {
  const ready = run.filter(({ kind }) => kind === 'worker_ready').length, exited = run.length - ready;
  const text = [ready && `${plural(ready, 'worker')} ready`, exited && `${plural(exited, 'worker')} exited as planned`];
  const details = node('details'), inner = node('ul'), first = run[run.length - 1], key = `${first.at_ms} ${first.value}`;
  inner.append(...items);
  details.append(node('summary', text.filter(Boolean).join(', ')), inner);
  details.open = opened.has(key);
  details.addEventListener('toggle', () => opened[details.open ? 'add' : 'delete'](key));
  return eventItem({ at_ms: run[0].at_ms, slot: 0 }, '', details);
}
