// The live feed: one stream per page, none while the page is hidden or paused. A gap is shown as a gap.
import { signal } from './lib.js';
import { serverNow, session } from './state.js';

/** connecting, live, reconnecting, paused, ended */
export const feed = signal({ status: 'connecting', tick: null, dropped: 0, sinceMs: null, reason: null });
/** Recent ticks of the overview for its small charts: [t_ms, rates] */
export const recent = signal([]);
const RECENT_MAX = 150;
/** No tick for this long: what is shown is old. */
export const STALE_MS = 10000;

let source = null;
let paused = false;
let wanted = false;
/** The server counts per stream: what earlier streams left out, and this one. */
let droppedBefore = 0;
let droppedNow = 0;

const update = (changes) => { feed.value = { ...feed.peek(), ...changes }; };

function open() {
  if (source || paused || !wanted || document.hidden) return;
  update({ status: feed.peek().tick ? 'reconnecting' : 'connecting', sinceMs: serverNow(), reason: null });
  source = new EventSource('/api/v1/live');
  source.addEventListener('tick', (event) => {
    let tick;
    try { tick = JSON.parse(event.data); } catch { return; }
    const dropped = tick.dropped || 0;
    if (dropped < droppedNow) droppedBefore += droppedNow;
    droppedNow = dropped;
    update({ status: 'live', tick, dropped: droppedBefore + dropped, sinceMs: null });
    if (tick.overview?.rates) recent.value = [...recent.peek().slice(-RECENT_MAX + 1), [tick.at_ms, tick.overview.rates]];
  });
  source.addEventListener('end', (event) => {
    let reason = null;
    try { reason = JSON.parse(event.data).reason; } catch { /* unknown */ }
    close();
    update({ status: 'ended', reason, sinceMs: serverNow() });
    if (reason === 'session expired') session.value = null;
    if (reason === 'shutting down') setTimeout(() => { if (wanted) open(); }, 3000);
  });
  source.onerror = () => {
    if (!source) return;
    const gone = source.readyState === EventSource.CLOSED;
    if (feed.peek().status !== 'reconnecting') update({ status: 'reconnecting', sinceMs: serverNow() });
    if (gone) { close(); setTimeout(open, 5000); } // an answer that is no stream ends the browser's own attempts
  };
}

function close() {
  source?.close();
  source = null;
}

export function startLive() { wanted = true; open(); }
export function stopLive() { wanted = false; close(); recent.value = []; droppedBefore = 0; droppedNow = 0; update({ status: 'connecting', tick: null, dropped: 0, sinceMs: null, reason: null }); }
export function pauseLive(on) {
  paused = on;
  if (on) { close(); update({ status: 'paused', sinceMs: serverNow() }); } else open();
}
document.addEventListener('visibilitychange', () => (document.hidden ? close() : open()));
