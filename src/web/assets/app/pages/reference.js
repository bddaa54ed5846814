// The API's own description, readable.
import { html } from '../lib.js';
import { useLoad, apiHref } from '../api.js';
import { useQuery } from '../router.js';
import { Page, Loaded, Search, Badge, Empty, Code, Icon } from '../ui/parts.js';
import { t } from '../text.js';

const METHODS = ['get', 'post', 'put', 'patch', 'delete'];
const LEVEL = { get: 'info', post: 'ok', patch: 'warn', put: 'warn', delete: 'crit' };

export function Reference() {
  const load = useLoad('/openapi.json');
  const [q, setQ] = useQuery({ find: '', open: '' });
  return html`<${Page} title=${t.reference.title} sub=${t.reference.sub} actions=${html`<a class="btn" href=${apiHref('/openapi.json')} target="_blank" rel="noopener"><${Icon} name="api" size=${15} />openapi.json</a>`}><${Loaded} load=${load}>${(spec) => {
    const operations = Object.entries(spec.paths ?? {}).flatMap(([path, item]) => METHODS.filter((m) => item[m]).map((method) => ({ path, method, ...item[method] })));
    const shown = operations.filter((o) => !q.find || `${o.method} ${o.path} ${o.summary ?? ''}`.toLowerCase().includes(q.find.toLowerCase()));
    const groups = [...new Set(shown.map((o) => o.tags?.[0] ?? ''))];
    return html`<div class="stack"><${Search} value=${q.find} placeholder=${t.reference.search} onChange=${(find) => setQ({ find }, { replace: true })} />
      ${shown.length === 0 && html`<section class="card"><${Empty} icon="api" title=${t.reference.none} /></section>`}
      ${groups.map((tag) => html`<section class="card" key=${tag}>${tag && html`<div class="head"><h2>${tag}</h2></div>`}<ul class="operations">${shown.filter((o) => (o.tags?.[0] ?? '') === tag).map((o) => { const id = `${o.method} ${o.path}`; const open = q.open === id; return html`<li key=${id}><button type="button" class="operation" aria-expanded=${open ? 'true' : 'false'} onClick=${() => setQ({ open: open ? '' : id }, { replace: true })}><${Badge} level=${LEVEL[o.method]}>${o.method.toUpperCase()}<//><code class="break">${o.path}</code><span class="muted">${o.summary ?? o.description?.split('\n')[0] ?? ''}</span></button>
        ${open && html`<div class="operation-more stack-s">${o.description && html`<p class="note">${o.description}</p>`}${o.parameters?.length > 0 && html`<dl class="kv">${o.parameters.map((p) => html`<dt key=${p.name} class="mono">${p.name}${p.required ? ' *' : ''}</dt><dd><span class="dim">${p.in} ${p.schema?.type ?? ''}</span> ${p.description ?? ''}</dd>`)}</dl>`}
          <dl class="kv">${Object.entries(o.responses ?? {}).map(([code, r]) => html`<dt key=${code} class="num">${code}</dt><dd>${r.description}</dd>`)}</dl><${Code} text=${curl(o)} label=${t.command} /></div>`}</li>`; })}</ul></section>`)}</div>`;
  }}<//><//>`;
}

const curl = (o) => `curl ${o.method === 'get' ? '' : `-X ${o.method.toUpperCase()} -H 'content-type: application/json' -H "x-csrf-token: $TOKEN" `}-b "$COOKIE" '${location.origin}${o.path.startsWith('/api') ? '' : '/api/v1'}${o.path}'`;
