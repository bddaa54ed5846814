// Parts that pages are made of: states, tables, numbers, times, small controls.
import { html, useEffect, useRef, useState, useId } from '../lib.js';
import { Icon } from './icons.js';
import { t } from '../text.js';
import * as f from '../format.js';
import { nowMs, timeMode, toast, canWrite } from '../state.js';
import { loc, navigate, withQuery } from '../router.js';
import { feed } from '../live.js';

export { Icon };

// ---- values -------------------------------------------------------------------------------------------------------------------------

export const Unknown = ({ why }) => html`<span class="unknown" title=${why || t.unknown.title}>${t.unknown.word}</span>`;
export const None = () => html`<span class="dim" aria-label=${t.none}>—</span>`;

/** A number in the form of `as` (a function of format.js), its raw value on hover; unknown stays unknown. */
export function Num({ v, as = f.int, why, unit = '' }) {
  if (f.unknown(v)) return html`<${Unknown} why=${why} />`;
  const shown = as(v);
  const raw = `${typeof v === 'string' && /^-?\d+$/.test(v) ? f.int(v) : v}${unit ? ` ${unit}` : ''}`;
  return html`<span class="num" title=${raw}>${shown}</span>`;
}
export const Bytes = ({ v, why }) => html`<${Num} v=${v} as=${f.bytes} unit="B" why=${why} />`;
export const Rate = ({ v, why }) => html`<${Num} v=${v} as=${f.byteRate} unit="B/s" why=${why} />`;

export function Time({ ms, millis = false, fallback }) {
  timeMode.value; // shown again when it is switched
  if (f.unknown(ms)) return fallback ?? html`<${Unknown} />`;
  const text = f.dateTime(ms, { millis });
  if (text === null) return html`<${Unknown} />`;
  return html`<time class="num" dateTime=${new Date(Number(ms)).toISOString()} title=${f.exact(ms)}>${text}</time>`;
}

export function Ago({ ms, fallback }) {
  if (f.unknown(ms)) return fallback ?? html`<${Unknown} />`;
  return html`<time class="nowrap" dateTime=${new Date(Number(ms)).toISOString()} title=${f.exact(ms)}>${nowMs.value - ms < 2000 ? t.justNow : t.ago(f.duration(roundAge(nowMs.value - ms)))}</time>`;
}
const roundAge = (ms) => Math.max(0, Math.floor(ms / 1000) * 1000);
export function Since({ ms }) {
  if (f.unknown(ms)) return null;
  const age = roundAge(nowMs.value - ms);
  return html`<span title=${f.exact(ms)}>${t.since(age > 72000000 ? f.dateTime(ms, { seconds: false }) : f.clockTime(ms), f.duration(age))}</span>`;
}

// ---- badges -------------------------------------------------------------------------------------------------------------------------

/** Shape and word carry the meaning, colour only repeats it. */
export function Badge({ level = '', children, title, dot = false }) {
  const shape = level === 'crit' ? 'square' : level === 'warn' ? 'ring' : '';
  return html`<span class=${`badge ${level}`} title=${title}>${dot && html`<span class=${`dot ${shape}`} aria-hidden="true"></span>`}${children}</span>`;
}

const LEVELS = {
  ok: 'ok', healthy: 'ok', embedded: 'ok', live: 'ok', Stable: 'ok', warn: 'warn', degraded: 'warn', critical: 'crit', unavailable: 'crit',
  unreachable: 'crit', Dead: 'crit', failed: 'crit', refused: 'warn', PreparingRebalance: 'warn', CompletingRebalance: 'warn', Assigning: 'warn',
  Reconciling: 'warn', draining: 'warn', drained: 'info', Empty: '', none: '',
};
export const StateBadge = ({ state, title }) => html`<${Badge} level=${LEVELS[state] ?? ''} dot title=${title}>${t.states[state] ?? state ?? t.unknown.word}<//>`;

/** How old what is shown is; loud only when it is old. */
export function AgeBadge({ asOfMs, load, staleMs = 30000 }) {
  const now = nowMs.value;
  if (load && load.data === undefined) return null;
  if (f.unknown(asOfMs)) return null;
  const age = roundAge(now - asOfMs);
  const old = age > staleMs || load?.error;
  return html`<span class=${`badge ${old ? 'warn' : ''}`} title=${f.exact(asOfMs)}><${Icon} name="clock" size=${13} />${age < 2000 ? t.justNow : t.ago(f.duration(age))}</span>`;
}

// ---- states -------------------------------------------------------------------------------------------------------------------------

const BANNER_ICONS = { crit: 'stop', warn: 'warn', info: 'info', ok: 'check' };
export function Banner({ level = 'info', title, children, actions, live = false }) {
  return html`<div class=${`banner ${level}`} role=${live ? (level === 'crit' ? 'alert' : 'status') : undefined}>
    <${Icon} name=${BANNER_ICONS[level]} /><div class="grow">${title && html`<div class="t">${title}</div>`}${children}</div>${actions}</div>`;
}

/** Says which sources are missing since when. */
export function Partial({ partial }) {
  if (!partial?.length) return null;
  return html`<${Banner} level="warn" title=${t.partial.title(partial.length)} live>
    <ul>${partial.slice(0, 8).map((p) => html`<li key=${p.source}><strong>${p.source}</strong>: ${p.reason}${p.since_ms ? html` — <${Since} ms=${p.since_ms} />` : ''}</li>`)}
    ${partial.length > 8 && html`<li>${t.more(partial.length - 8)}</li>`}</ul><//>`;
}

export function Problem({ error, retry, title }) {
  if (!error) return null;
  return html`<${Banner} level="crit" title=${title ?? t.error.title(error.code)} live
    actions=${retry && html`<button class="btn s" onClick=${retry}>${t.action.retry}</button>`}>
    <div>${f.sentence(error.message)}</div>${error.requestId && html`<div class="dim tiny">${t.error.request(error.requestId)}</div>`}<//>`;
}

/** What stands above a page: why it is old, what is missing. */
export function LoadBanners({ load }) {
  if (!load) return null;
  const { data, error, failedSinceMs } = load;
  return html`<div class="banners">
    ${error && data !== undefined && html`<${Banner} level="warn" title=${t.stale.title} live actions=${html`<button class="btn s" onClick=${load.reload}>${t.action.retry}</button>`}>
      ${t.stale.text(f.clockTime(data?.as_of_ms), f.clockTime(failedSinceMs))} ${f.sentence(error.message)}<//>`}
    ${!error && html`<${Partial} partial=${data?.partial} />`}
  </div>`;
}

export function Empty({ icon = 'search', title, children, actions }) {
  return html`<div class="empty"><span class="art"><${Icon} name=${icon} size=${22} /></span><h2>${title}</h2>${children && html`<p>${children}</p>`}${actions && html`<div class="row">${actions}</div>`}</div>`;
}

export const Skeleton = ({ rows = 3 }) => html`<div class="stack-s" role="status" aria-label=${t.loading}>${Array.from({ length: rows }, (_, i) => html`<span class=${`skel w${(i % 3) + 1}`}></span>`)}</div>`;

/** Loading, failed, or `children(data)`; what was there before stays while it is asked for again. */
export function Loaded({ load, rows = 6, children, missing }) {
  if (load.data !== undefined && load.data !== null) return children(load.data);
  if (load.error) {
    if (load.error.status === 404 && missing) return missing;
    return html`<div class="stack-s"><${Problem} error=${load.error} retry=${load.reload} /></div>`;
  }
  return html`<div class="card"><div class="body"><${Skeleton} rows=${rows} /></div></div>`;
}

/** On every page but the overview: that the cluster is not well, why, and since when. */
function HealthStrip() {
  const { status, tick } = feed.value;
  const health = tick?.overview?.health;
  if (status !== 'live' || loc.value.path === '/' || !['critical', 'warn'].includes(health?.level)) return null;
  const level = health.level === 'critical' ? 'crit' : 'warn';
  const [first, ...others] = [...health.reasons].sort((a, b) => (b.level === 'critical') - (a.level === 'critical'));
  if (!first) return null;
  return html`<div class=${`strip ${level}`} role="status"><${Icon} name=${BANNER_ICONS[level]} size=${16} /><span class="grow">${f.sentence(first.text)} <span class="nowrap"><${Since} ms=${first.since_ms} /></span>${others.length > 0 && html` ${t.more(others.length)}`}</span><a href="/">${t.nav.overview}</a></div>`;
}

// ---- structure ----------------------------------------------------------------------------------------------------------------------

export function Page({ title, sub, crumbs, meta, actions, load, children, tabs }) {
  useEffect(() => { document.title = `${typeof title === 'string' ? title : ''} · Kafscale`; }, [title]);
  return html`<div>
    <header class="page-head"><div class="titles">
      ${crumbs && html`<nav class="crumbs" aria-label=${t.nav.crumbs}>${crumbs.map(([label, href]) => html`<span key=${href}><a href=${href}>${label}</a> <span aria-hidden="true">/</span></span>`)}</nav>`}
      <h1>${title}</h1>${sub && html`<p class="sub">${sub}</p>`}
      ${(meta || load) && html`<div class="meta">${meta}${load && html`<${AgeBadge} asOfMs=${load.data?.as_of_ms} load=${load} />`}</div>`}
    </div>${actions && html`<div class="acts">${actions}</div>`}</header>
    ${tabs}<${HealthStrip} /><${LoadBanners} load=${load} />${children}</div>`;
}

export function Card({ title, sub, actions, children, foot, flush = false, level = 2 }) {
  return html`<section class="card">${(title || actions) && html`<div class="head"><div class="grow">${html`<${`h${level}`}>${title}<//>`}${sub && html`<p>${sub}</p>`}</div>${actions}</div>`}
    ${flush ? children : html`<div class="body">${children}</div>`}${foot && html`<div class="foot">${foot}</div>`}</section>`;
}

export function Stat({ k, children, s, href }) {
  const inner = html`<div class="k">${k}</div><div class="v">${children}</div><div class="s">${s}</div>`;
  return href ? html`<a class="stat" href=${href}>${inner}</a>` : html`<div class="stat">${inner}</div>`;
}
/** `12.3 MiB/s` with a small unit. */
export function Figure({ v, parts, suffix = '', why }) {
  if (f.unknown(v)) return html`<${Unknown} why=${why} />`;
  const [number, unit] = parts ? parts(v) : [f.short(Number(v)), ''];
  return html`<span title=${`${v}`}>${number}${unit || suffix ? html`<span class="unit">${unit}${suffix}</span>` : ''}</span>`;
}

export function Bar({ share, level = '', label }) {
  const ref = useRef(null);
  const value = Math.max(0, Math.min(1, Number(share) || 0));
  useEffect(() => { if (ref.current) ref.current.style.width = `${value * 100}%`; }, [value]);
  return html`<div class=${`bar ${level}`} role="img" aria-label=${label}><span ref=${ref}></span></div>`;
}

export function Tabs({ items, label }) {
  return html`<nav class="tabs" aria-label=${label}>${items.map(({ href, name, current }) => html`<a key=${href} href=${href} aria-current=${current ? 'page' : undefined}>${name}</a>`)}</nav>`;
}

// ---- tables -------------------------------------------------------------------------------------------------------------------------

/**
 * columns: {key, title, cell(row), r: right-aligned, sort: name for the server, hideS: not on phones, hideM: only where there is much room, cls}
 * sort: {by, order, onSort(by, order)}
 */
export function Table({ columns, rows, rowKey, sort, caption, loading, cards = true, rowClass }) {
  return html`<div class="scroll" role="region" aria-label=${caption} tabindex="0">
    <table class=${`table ${cards ? 'cards' : ''} ${loading ? 'loading' : ''}`} aria-busy=${loading ? 'true' : undefined}>
      <caption class="sr">${caption}</caption>
      <thead><tr>${columns.map((c) => html`<th key=${c.key} scope="col" class=${`${c.r ? 'r' : ''} ${c.hideS ? 'hide-s' : c.hideM ? 'hide-m' : ''}`}
        aria-sort=${c.sort && sort?.by === c.sort ? (sort.order === 'desc' ? 'descending' : 'ascending') : undefined}>${c.sort && sort
          ? html`<button onClick=${() => sort.onSort(c.sort, sort.by === c.sort && sort.order !== 'desc' ? 'desc' : sort.by === c.sort ? 'asc' : c.firstOrder ?? 'asc')}>${c.title}${sort.by === c.sort && html`<${Icon} name=${sort.order === 'desc' ? 'sortDown' : 'sortUp'} size=${12} />`}</button>`
          : c.title || html`<span class="sr">${t.table.actions}</span>`}</th>`)}</tr></thead>
      <tbody>${rows.map((row) => html`<tr key=${rowKey(row)} class=${rowClass?.(row)}>${columns.map((c) => html`<td key=${c.key} data-label=${c.title} class=${`${c.r ? 'r' : ''} ${c.cls ?? ''} ${c.hideS ? 'hide-s' : c.hideM ? 'hide-m' : ''}`}>${c.cell(row)}</td>`)}</tr>`)}</tbody>
    </table></div>`;
}

/** Sorts small lists in the browser; state is in the address. */
export function sorted(rows, columns, by, order) {
  const column = columns.find((c) => c.sort === by);
  if (!column?.value) return rows;
  const compare = (a, b) => {
    const x = column.value(a);
    const y = column.value(b);
    if (x === y) return 0;
    if (x === null || x === undefined) return 1;
    if (y === null || y === undefined) return -1;
    return (x < y ? -1 : 1) * (order === 'desc' ? -1 : 1);
  };
  return [...rows].sort(compare);
}

export function Pager({ shown, total, cursor, next, onFirst, onNext, loading, noun }) {
  return html`<div class="foot"><span role="status">${t.pager.shown(shown, f.int(total), noun)}</span><div class="row">
    ${cursor && html`<button class="btn s" onClick=${onFirst}>${t.pager.first}</button>`}
    <button class="btn s" disabled=${!next || loading} onClick=${onNext}>${t.pager.next}<${Icon} name="chevron" size=${14} /></button></div></div>`;
}

/** A search field whose text goes to the address a moment after typing. */
export function Search({ value, onChange, placeholder, label }) {
  const [text, setText] = useState(value ?? '');
  const timer = useRef(null);
  useEffect(() => { setText(value ?? ''); }, [value]);
  const input = (event) => {
    setText(event.target.value);
    clearTimeout(timer.current);
    const next = event.target.value;
    timer.current = setTimeout(() => onChange(next), 250);
  };
  return html`<div class="search"><${Icon} name="search" size=${16} />
    <input class="input" type="search" data-search value=${text} onInput=${input} placeholder=${placeholder} aria-label=${label ?? placeholder} autocomplete="off" spellcheck=${false}
      onKeyDown=${(e) => { if (e.key === 'Enter') { clearTimeout(timer.current); onChange(text); } }} /><kbd aria-hidden="true">/</kbd></div>`;
}

export function Segmented({ options, value, onChange, label }) {
  return html`<div class="seg" role="group" aria-label=${label}>${options.map(([key, text]) => html`<button key=${key} type="button" aria-pressed=${value === key ? 'true' : 'false'} onClick=${() => onChange(key)}>${text}</button>`)}</div>`;
}

export function Field({ label, help, error, children }) {
  const id = useId();
  const describedBy = [help && `${id}-h`, error && `${id}-e`].filter(Boolean).join(' ') || undefined;
  return html`<div class="field"><label for=${id}>${label}</label>${children({ id, 'aria-describedby': describedBy, 'aria-invalid': error ? 'true' : undefined })}
    ${help && html`<div class="help" id=${`${id}-h`}>${help}</div>`}${error && html`<div class="err" id=${`${id}-e`} role="alert">${error}</div>`}</div>`;
}
export const TextField = ({ label, help, error, ...rest }) => html`<${Field} label=${label} help=${help} error=${error}>${(a) => html`<input class="input" type="text" autocomplete="off" spellcheck=${false} ...${a} ...${rest} />`}<//>`;
export const SelectField = ({ label, help, error, options, value, ...rest }) => html`<${Field} label=${label} help=${help} error=${error}>${(a) => html`<select class="select" ...${a} ...${rest}>${options.map(([key, text]) => html`<option key=${key} value=${key} selected=${String(key) === String(value)}>${text}</option>`)}</select>`}<//>`;
export const AreaField = ({ label, help, error, ...rest }) => html`<${Field} label=${label} help=${help} error=${error}>${(a) => html`<textarea class="textarea" autocomplete="off" spellcheck=${false} ...${a} ...${rest}></textarea>`}<//>`;

// ---- copy ---------------------------------------------------------------------------------------------------------------------------

export async function copyText(text) {
  try {
    if (navigator.clipboard) await navigator.clipboard.writeText(text);
    else throw new Error('no clipboard');
    toast(t.copied);
  } catch {
    // Without TLS there is no clipboard interface; the old way still works.
    const area = document.createElement('textarea');
    area.value = text;
    area.className = 'sr';
    (document.querySelector('dialog[open]') || document.body).append(area);
    area.select();
    const done = document.execCommand('copy');
    area.remove();
    toast(done ? t.copied : t.copyFailed, done ? 'ok' : 'crit');
  }
}

export function Code({ text, label }) {
  if (!text) return null;
  return html`<div class="code"><pre tabindex="0" aria-label=${label}>${text}</pre><button type="button" class="btn ghost icon s" onClick=${() => copyText(text)} aria-label=${t.action.copy} title=${t.action.copy}><${Icon} name="copy" size=${15} /></button></div>`;
}

/** The command that does the same, for copying. */
export const Command = ({ text }) => (text ? html`<div class="stack-s"><div class="label">${t.command}</div><${Code} text=${text} label=${t.command} /></div>` : null);

/** A button for those who may; for viewers it says why not. */
export function WriteButton({ children, class: cls = '', disabled, ...rest }) {
  const may = canWrite();
  return html`<button type="button" class=${`btn ${cls}`} disabled=${disabled || !may} title=${may ? rest.title : t.viewerMayNot} ...${rest}>${children}</button>`;
}

/** Changes of the address from a select. */
export const goWith = (changes) => navigate(withQuery(loc.value.path, { ...Object.fromEntries(loc.value.query), ...changes }));
