// Starts: asks who is signed in, then shows the page of the address.
import { html, render, useEffect, useState } from './lib.js';
import { api } from './api.js';
import { session, maybeSignedIn } from './state.js';
import { loc, navigate, ownPath, withQuery } from './router.js';
import { Shell } from './shell.js';
import { startLive, stopLive } from './live.js';
import { Problem, Skeleton, Empty, Page } from './ui/parts.js';
import { t } from './text.js';

/** [pattern, names of its groups, module below pages/, export] */
const ROUTES = [
  [/^\/$/, [], 'overview', 'Overview'],
  [/^\/topics$/, [], 'topics', 'Topics'],
  [/^\/topics\/([^/]+)(?:\/(messages|configs|groups|segments|cost))?$/, ['name', 'tab'], 'topic', 'Topic'],
  [/^\/groups$/, [], 'groups', 'Groups'],
  [/^\/groups\/([^/]+)$/, ['id'], 'group', 'Group'],
  [/^\/brokers$/, [], 'brokers', 'Brokers'],
  [/^\/brokers\/(-?\d+)$/, ['id'], 'brokers', 'Broker'],
  [/^\/storage$/, [], 'storage', 'Storage'],
  [/^\/cost$/, [], 'cost', 'Cost'],
  [/^\/etcd$/, [], 'etcd', 'Etcd'],
  [/^\/actors$/, [], 'actors', 'Actors'],
  [/^\/audit$/, [], 'audit', 'AuditLog'],
  [/^\/settings$/, [], 'settings', 'Settings'],
  [/^\/reference$/, [], 'reference', 'Reference'],
];

const decode = (text) => { try { return decodeURIComponent(text); } catch { return text; } };

function match(path) {
  for (const [pattern, names, module, name] of ROUTES) {
    const found = pattern.exec(path);
    if (found) return { module, name, params: Object.fromEntries(names.map((n, i) => [n, found[i + 1] === undefined ? '' : decode(found[i + 1])])) };
  }
  return null;
}

const loaded = new Map();

function Routed() {
  const { path } = loc.value;
  const route = match(path);
  const [, setTurn] = useState(0);
  const [failed, setFailed] = useState(null);
  const key = route?.module;
  useEffect(() => {
    if (!key || loaded.has(key)) return;
    import(`./pages/${key}.js`).then((m) => { loaded.set(key, m); setFailed(null); setTurn((n) => n + 1); }, () => setFailed(key));
  }, [key]);
  if (!route) return html`<${Page} title=${t.notFound.title}><div class="card"><${Empty} icon="search" title=${t.notFound.title} actions=${html`<a class="btn" href="/">${t.notFound.home}</a>`}>${t.notFound.text}<//></div><//>`;
  if (failed === key) return html`<${Problem} error=${{ message: t.error.module, code: 'offline' }} retry=${() => location.reload()} />`;
  const Component = loaded.get(key)?.[route.name];
  return Component ? html`<${Component} key=${`${route.name}${route.params.name ?? route.params.id ?? ''}`} ...${route.params} />` : html`<${Skeleton} rows=${6} />`;
}

function App() {
  const who = session.value;
  const { path, query } = loc.value;
  const [failure, setFailure] = useState(null);
  const [Login, setLogin] = useState(null);
  const ask = () => {
    setFailure(null);
    // Who was never signed in here need not be asked for.
    if (!maybeSignedIn()) { session.value = null; return; }
    api('/auth/session').then((s) => { session.value = s; }, (error) => {
      // Not being signed in, or that nobody can, is the login page's business.
      if (error.status === 401 || error.status === 503) session.value = null;
      else setFailure(error);
    });
  };
  useEffect(ask, []);
  useEffect(() => {
    if (who) startLive(); else stopLive();
    if (who === null) {
      if (path !== '/login') navigate(withQuery('/login', { next: path === '/' ? '' : location.pathname + location.search }), { replace: true });
      import('./pages/login.js').then((m) => setLogin(() => m.Login), () => setFailure({ message: t.error.module, code: 'offline' }));
    } else if (who && path === '/login') navigate(ownPath(query.get('next')), { replace: true });
  }, [who, path]);
  if (failure) return html`<main class="alone"><${Problem} error=${failure} retry=${ask} /></main>`;
  if (who === undefined) return html`<main class="alone"><${Skeleton} rows=${3} /></main>`;
  if (who === null || path === '/login') return Login && who === null ? html`<${Login} />` : html`<main class="alone"><${Skeleton} rows=${3} /></main>`;
  return html`<${Shell}><${Routed} /><//>`;
}

render(html`<${App} />`, document.getElementById('app'));
