// What surrounds every page: navigation, search, live state, keyboard.
import { html, useEffect, useRef, useState } from './lib.js';
import { Icon, Logo } from './ui/icons.js';
import { Badge, copyText } from './ui/parts.js';
import { Dialog } from './ui/dialog.js';
import { api, forget, url } from './api.js';
import { feed, pauseLive, STALE_MS } from './live.js';
import { session, themeChoice, timeMode, toasts, dropToast, toast, nowMs } from './state.js';
import { loc, navigate, topicPath, groupPath } from './router.js';
import { t } from './text.js';
import * as f from './format.js';

/** [path, name, icon, key after g] */
const NAV = [
  [null, [['/', 'overview', 'o']]],
  ['data', [['/topics', 'topics', 't'], ['/groups', 'groups', 'c']]],
  ['infrastructure', [['/brokers', 'brokers', 'b'], ['/storage', 'storage', 's'], ['/etcd', 'etcd', 'e'], ['/actors', 'actors', 'x']]],
  ['money', [['/cost', 'cost', 'm']]],
  ['administration', [['/audit', 'audit', 'a'], ['/settings', 'settings', 'i'], ['/reference', 'api', 'r']]],
];
const LINKS = NAV.flatMap(([, links]) => links);

export function Shell({ children }) {
  const [open, setOpen] = useState(false);
  const [help, setHelp] = useState(false);
  const [finder, setFinder] = useState(false);
  const main = useRef(null);
  const { path } = loc.value;
  const first = useRef(true);
  useEffect(() => {
    setOpen(false);
    if (first.current) first.current = false;
    else if (!document.querySelector('dialog[open]')) main.current?.focus({ preventScroll: true });
  }, [path]);
  useKeys({ setHelp, setFinder, setOpen });
  const current = (href) => (href === '/' ? path === '/' : path === href || path.startsWith(`${href}/`));
  const overview = feed.value.tick?.overview;
  return html`<a class="skip" href="#main" onClick=${(e) => { e.preventDefault(); main.current?.focus(); }}>${t.nav.skip}</a>
  <div class="shell">
    <aside class=${`side ${open ? 'open' : ''}`} id="side" aria-label=${t.nav.side}>
      <a class="brand" href="/" aria-label=${t.nav.home}><span class="mark"><${Logo} /></span>${t.product}</a>
      <nav class="nav" aria-label=${t.nav.label}>${NAV.map(([group, links]) => html`<div key=${group ?? 'top'}>${group && html`<div class="nav-group">${t.nav[group]}</div>`}
        ${links.map(([href, name]) => html`<a key=${href} href=${href} aria-current=${current(href) ? 'page' : undefined}><${Icon} name=${name} />${t.nav[name]}</a>`)}</div>`)}</nav>
      <div class="side-foot">${overview?.version && html`<div>${t.nav.version(overview.version)}</div>`}${overview?.cluster_id && html`<div class="break">${t.nav.cluster(overview.cluster_id)}</div>`}</div>
    </aside>
    <button class=${`scrim ${open ? 'open' : ''}`} aria-label=${t.action.close} tabindex="-1" onClick=${() => setOpen(false)}></button>
    <div class="content">
      <header class="top">
        <button type="button" class="btn ghost icon menu-button" aria-label=${t.nav.open} aria-expanded=${open ? 'true' : 'false'} aria-controls="side" onClick=${() => setOpen(!open)}><${Icon} name="menu" /></button>
        <button type="button" class="btn finder-button" onClick=${() => setFinder(true)} ><${Icon} name="search" size=${15} /><span class="sr-s">${t.finder.button}</span><kbd class="hide-s" aria-hidden="true">Ctrl K</kbd></button>
        <div class="grow"></div>
        <${LiveState} />
        <button type="button" class="btn ghost hide-s" title=${t.time.toggle(timeMode.value)} onClick=${() => { timeMode.value = timeMode.value === 'utc' ? 'local' : 'utc'; }}><${Icon} name="clock" size=${16} />${timeMode.value === 'utc' ? t.time.utc : t.time.local}</button>
        <${ThemeButton} />
        <${UserMenu} setHelp=${setHelp} />
      </header>
      <main class="main" id="main" tabindex="-1" ref=${main}>${children}</main>
    </div>
  </div>
  ${help && html`<${Help} onClose=${() => setHelp(false)} />`}
  ${finder && html`<${Finder} onClose=${() => setFinder(false)} />`}
  <${Toasts} />`;
}

function LiveState() {
  const { status, sinceMs, dropped, reason, tick } = feed.value;
  const old = status === 'live' && tick && nowMs.value - tick.at_ms > STALE_MS;
  const shown = old ? 'stale' : status;
  const level = { live: 'ok', stale: 'warn', reconnecting: 'warn', ended: 'warn', paused: 'info' }[shown] ?? '';
  const title = [t.live.help[shown], sinceMs && t.since(f.clockTime(sinceMs), f.duration(Math.max(0, nowMs.value - sinceMs))), reason && t.live.reason(reason), dropped > 0 && t.live.dropped(dropped)].filter(Boolean).join(' · ');
  return html`<span class="row" title=${title}><span role="status"><${Badge} level=${level} dot>${t.live[shown]}<//></span>${dropped > 0 && html`<span class="badge warn hide-s">${t.live.droppedShort(dropped)}</span>`}</span>
    <button type="button" class="btn ghost icon" aria-label=${status === 'paused' ? t.live.resume : t.live.pause} title=${status === 'paused' ? t.live.resume : t.live.pause} onClick=${() => pauseLive(status !== 'paused')}><${Icon} name=${status === 'paused' ? 'play' : 'pause'} size=${16} /></button>`;
}

function ThemeButton() {
  const next = { auto: 'light', light: 'dark', dark: 'auto' }[themeChoice.value] ?? 'auto';
  const icon = { auto: 'auto', light: 'sun', dark: 'moon' }[themeChoice.value] ?? 'auto';
  return html`<button type="button" class="btn ghost icon" aria-label=${t.theme.label(themeChoice.value, next)} title=${t.theme.label(themeChoice.value, next)} onClick=${() => { themeChoice.value = next; }}><${Icon} name=${icon} /></button>`;
}

function UserMenu({ setHelp }) {
  const [open, setOpen] = useState(false);
  const box = useRef(null);
  const who = session.value;
  useEffect(() => {
    if (!open) return undefined;
    const away = (e) => { if (!box.current?.contains(e.target)) setOpen(false); };
    const escape = (e) => { if (e.key === 'Escape') { setOpen(false); box.current?.querySelector('button')?.focus(); } };
    document.addEventListener('pointerdown', away);
    document.addEventListener('keydown', escape);
    return () => { document.removeEventListener('pointerdown', away); document.removeEventListener('keydown', escape); };
  }, [open]);
  const out = async (path) => {
    try { await api(path, { method: 'POST' }); } catch (error) { if (error.status !== 401) { toast(error.message, 'crit'); return; } }
    forget();
    session.value = null;
  };
  return html`<div class="menu" ref=${box}><button type="button" class="btn ghost icon" aria-label=${t.user.menu} aria-expanded=${open ? 'true' : 'false'} onClick=${() => setOpen(!open)}><${Icon} name="user" /></button>
    ${open && html`<div class="pop"><div class="who">${t.user.signedIn} <strong>${who.username}</strong><div><${Badge} level=${who.role === 'admin' ? 'accent' : ''}>${t.user.roles[who.role] ?? who.role}<//></div></div><div class="sep"></div>
      <button type="button" class="item" onClick=${() => { timeMode.value = timeMode.value === 'utc' ? 'local' : 'utc'; setOpen(false); }}><${Icon} name="clock" size=${16} />${t.time.toggle(timeMode.value)}</button>
      <button type="button" class="item" onClick=${() => { setOpen(false); setHelp(true); }}><${Icon} name="keyboard" size=${16} />${t.help.title}</button>
      <button type="button" class="item" onClick=${() => { setOpen(false); copyText(location.href); }}><${Icon} name="link" size=${16} />${t.user.copyLink}</button><div class="sep"></div>
      <button type="button" class="item" onClick=${() => out('/auth/logout')}><${Icon} name="out" size=${16} />${t.user.logout}</button>
      <button type="button" class="item" onClick=${() => out('/auth/logout-everywhere')}><${Icon} name="out" size=${16} />${t.user.logoutEverywhere}</button></div>`}</div>`;
}

function Toasts() {
  return html`<div class="toasts" role="status" aria-live="polite">${toasts.value.map((x) => html`<div key=${x.id} class=${`toast ${x.kind}`}><${Icon} name=${x.kind === 'ok' ? 'check' : 'stop'} /><div class="grow">${x.text}</div><button type="button" class="btn ghost icon s" aria-label=${t.action.close} onClick=${() => dropToast(x.id)}><${Icon} name="close" size=${14} /></button></div>`)}</div>`;
}

const typing = (element) => element?.closest?.('input, textarea, select, [contenteditable]');

function useKeys({ setHelp, setFinder, setOpen }) {
  useEffect(() => {
    let leader = 0;
    const onKey = (event) => {
      if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === 'k') { event.preventDefault(); setFinder(true); return; }
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.key === 'Escape' && typing(event.target) && !document.querySelector('dialog[open]')) { event.target.blur(); return; }
      if (event.key === 'Escape') { setOpen(false); return; }
      if (typing(event.target) || document.querySelector('dialog[open]')) return;
      if (event.timeStamp - leader < 1500 && leader) {
        leader = 0;
        const link = LINKS.find(([, , key]) => key === event.key);
        if (link) { event.preventDefault(); navigate(link[0]); }
        return;
      }
      if (event.key === 'g') { leader = event.timeStamp; return; }
      if (event.key === '/') {
        event.preventDefault();
        const field = document.querySelector('main [data-search]');
        if (field) { field.focus(); field.select?.(); } else setFinder(true);
      }
      if (event.key === '?') setHelp(true);
      if (event.key === 'j' || event.key === 'k') {
        const rows = [...document.querySelectorAll('main .table tbody tr')].map((row) => row.querySelector('a, button')).filter(Boolean);
        if (!rows.length) return;
        const at = rows.findIndex((x) => x === document.activeElement);
        rows[Math.max(0, Math.min(rows.length - 1, at === -1 ? 0 : at + (event.key === 'j' ? 1 : -1)))].focus();
      }
    };
    document.addEventListener('keydown', onKey);
    return () => document.removeEventListener('keydown', onKey);
  }, []);
}

function Help({ onClose }) {
  const keys = [[['/'], t.help.search], [['Ctrl', 'K'], t.help.finder], [['j', 'k'], t.help.rows], [['?'], t.help.help], [['Esc'], t.help.escape]];
  return html`<${Dialog} title=${t.help.title} onClose=${onClose}><div class="keys">${keys.map(([k, text]) => html`<div key=${text}><span>${k.map((x) => html`<kbd key=${x}>${x}</kbd> `)}</span>${text}</div>`)}
    ${LINKS.map(([href, name, key]) => html`<div key=${href}><span><kbd>g</kbd> <kbd>${key}</kbd></span>${t.help.go(t.nav[name])}</div>`)}</div><//>`;
}

/** Finds pages, topics and groups by name. */
function Finder({ onClose }) {
  const [text, setText] = useState('');
  const [found, setFound] = useState({ topics: [], groups: [] });
  const [problem, setProblem] = useState(null);
  const [at, setAt] = useState(0);
  useEffect(() => {
    setAt(0);
    if (!text.trim()) { setFound({ topics: [], groups: [] }); return undefined; }
    const abort = new AbortController();
    const timer = setTimeout(async () => {
      const ask = (path) => api(url(path, { q: text.trim(), limit: 6 }), { signal: abort.signal });
      const [topics, groups] = await Promise.allSettled([ask('/topics'), ask('/groups')]);
      if (abort.signal.aborted) return;
      setFound({ topics: topics.value?.items ?? [], groups: groups.value?.items ?? [] });
      setProblem(topics.reason ?? groups.reason ?? null);
    }, 150);
    return () => { clearTimeout(timer); abort.abort(); };
  }, [text]);
  const wanted = text.trim().toLowerCase();
  const pages = LINKS.filter(([, name]) => t.nav[name].toLowerCase().includes(wanted)).map(([href, name]) => ({ href, label: t.nav[name], icon: name, kind: t.finder.page }));
  const items = [...found.topics.map((x) => ({ href: topicPath(x.name), label: x.name, icon: 'topics', kind: t.finder.topic })),
    ...found.groups.map((x) => ({ href: groupPath(x.group_id), label: x.group_id || t.groups.unnamed, icon: 'groups', kind: t.finder.group })), ...pages];
  const go = (item) => { onClose(); navigate(item.href); };
  const key = (e) => {
    if (e.key === 'ArrowDown' || e.key === 'ArrowUp') { e.preventDefault(); setAt((n) => Math.max(0, Math.min(items.length - 1, n + (e.key === 'ArrowDown' ? 1 : -1)))); }
    if (e.key === 'Enter' && items[at]) { e.preventDefault(); go(items[at]); }
  };
  return html`<${Dialog} title=${t.finder.title} onClose=${onClose}>
    <input class="input" type="search" autofocus value=${text} onInput=${(e) => setText(e.target.value)} onKeyDown=${key} placeholder=${t.finder.placeholder} aria-label=${t.finder.placeholder}
      role="combobox" aria-expanded="true" aria-controls="finder-list" aria-activedescendant=${items[at] ? `finder-${at}` : undefined} autocomplete="off" spellcheck=${false} />
    ${problem && html`<div class="small text-warn" role="status">${problem.message}</div>`}
    ${items.length ? html`<ul class="finder" role="listbox" id="finder-list" aria-label=${t.finder.title}>${items.map((item, i) => html`<li key=${item.href} id=${`finder-${i}`} role="option" aria-selected=${i === at ? 'true' : 'false'} onClick=${() => go(item)} onMouseMove=${() => i !== at && setAt(i)}>
      <${Icon} name=${item.icon} size=${16} /><span class="grow break">${item.label}</span><span class="dim tiny">${item.kind}</span></li>`)}</ul>` : html`<div class="dim small" id="finder-list">${t.finder.nothing}</div>`}<//>`;
}
