// What was changed through the console: who, what, before and after.
import { html } from '../lib.js';
import { useLoad, url } from '../api.js';
import { useQuery } from '../router.js';
import { Page, Loaded, Pager, Search, Empty, Time, Badge, None } from '../ui/parts.js';
import { t } from '../text.js';

const text = (v) => (v === null || v === undefined ? null : typeof v === 'string' ? v : JSON.stringify(v, null, 2));

export function AuditLog() {
  const [q, setQ] = useQuery({ q: '', cursor: '', open: '', limit: '50' });
  const load = useLoad(url('/audit', { q: q.q, cursor: q.cursor, limit: q.limit }), { everyMs: q.cursor ? 0 : 10000 });
  return html`<${Page} title=${t.audit.title} sub=${t.audit.sub} load=${load}><section class="card"><div class="toolbar"><${Search} value=${q.q} placeholder=${t.audit.search} onChange=${(value) => setQ({ q: value, cursor: '' }, { replace: true })} /></div>
    <${Loaded} load=${load}>${(data) => (data.items.length === 0 ? html`<${Empty} icon="audit" title=${q.q ? t.audit.noMatch : t.audit.none}>${q.q ? '' : t.audit.noneHelp}<//>` : html`<div class="scroll" tabindex="0" role="region" aria-label=${t.audit.title}><table class="table"><caption class="sr">${t.audit.title}</caption>
      <thead><tr><th scope="col">${t.audit.when}</th><th scope="col">${t.audit.who}</th><th scope="col">${t.audit.action}</th><th scope="col">${t.audit.resource}</th><th scope="col">${t.audit.outcome}</th><th scope="col" class="hide-s">${t.audit.detail}</th></tr></thead>
      <tbody>${data.items.map((e) => { const open = q.open === String(e.id); return html`<tr key=${e.id}><td class="tight"><button type="button" class="link-button" aria-expanded=${open ? 'true' : 'false'} onClick=${() => setQ({ open: open ? '' : String(e.id) }, { replace: true })}><${Time} ms=${e.at_ms} /></button></td><td><strong>${e.who}</strong><div class="dim tiny">${e.remote}</div></td><td><code>${e.action}</code></td><td class="break">${e.resource}</td>
          <td><${Badge} level=${{ ok: 'ok', refused: 'warn', failed: 'crit' }[e.outcome] ?? ''} dot>${t.audit.outcomes[e.outcome] ?? e.outcome}<//></td><td class="hide-s break">${e.detail || html`<${None} />`}</td></tr>
        ${open && html`<tr key=${`${e.id}d`} class="detail"><td colspan="6"><div class="cols-2"><div class="stack-s"><h3>${t.configs.before}</h3><pre class="payload-box" tabindex="0">${text(e.before) ?? t.none}</pre></div><div class="stack-s"><h3>${t.configs.after}</h3><pre class="payload-box" tabindex="0">${text(e.after) ?? t.none}</pre></div></div>${e.detail && html`<p class="note">${e.detail}</p>`}<p class="dim tiny">${t.audit.entry(e.id, t.user.roles[e.role] ?? e.role)}</p></td></tr>`}`; })}</tbody></table></div>
      <${Pager} shown=${data.items.length} total=${data.total} noun=${t.audit.noun} cursor=${q.cursor} next=${data.next_cursor} loading=${load.loading} onFirst=${() => setQ({ cursor: '' })} onNext=${() => setQ({ cursor: data.next_cursor })} />`)}<//></section><//>`;
}
