// How the console is set up, and how it looks here.
import { html } from '../lib.js';
import { useLoad } from '../api.js';
import { useQuery } from '../router.js';
import { session, themeChoice, timeMode } from '../state.js';
import { Page, Loaded, Card, Segmented, Badge, Search, Time, Empty, None } from '../ui/parts.js';
import { t } from '../text.js';
import * as f from '../format.js';

const safe = (link) => (typeof link === 'string' && /^https?:\/\//i.test(link) ? link : typeof link === 'string' && /^\/(?![\/\\])/.test(link) ? link : null);

const limit = (k, v) => { const unit = Array.isArray(t.settings.limits[k]) ? t.settings.limits[k][1] : null; return unit === 'sec' ? f.duration(v * 1000) : unit === 'ms' ? f.duration(v) : typeof v === 'number' ? f.int(v) : String(v); };

export function Settings() {
  const load = useLoad('/settings');
  const [q, setQ] = useQuery({ find: '' });
  const who = session.value ?? {};
  return html`<${Page} title=${t.settings.title} load=${load}><div class="stack"><div class="cols-2"><${Card} title=${t.settings.look}><div class="stack-s"><div class="row spread"><span>${t.theme.title}</span><${Segmented} label=${t.theme.title} value=${themeChoice.value} onChange=${(v) => { themeChoice.value = v; }} options=${[['auto', t.theme.auto], ['light', t.theme.light], ['dark', t.theme.dark]]} /></div>
        <div class="row spread"><span>${t.time.title}</span><${Segmented} label=${t.time.title} value=${timeMode.value} onChange=${(v) => { timeMode.value = v; }} options=${[['local', t.time.local], ['utc', t.time.utc]]} /></div></div><//>
      <${Card} title=${t.settings.session}><dl class="kv"><dt>${t.login.username}</dt><dd>${who.username}</dd><dt>${t.settings.role}</dt><dd>${t.user.roles[who.role] ?? who.role}</dd><dt>${t.settings.idle}</dt><dd><${Time} ms=${who.idle_expires_at_ms} /></dd><dt>${t.settings.expires}</dt><dd><${Time} ms=${who.expires_at_ms} /></dd></dl><//></div>
    <${Loaded} load=${load}>${(s) => { const shown = (s.config ?? []).filter((c) => !q.find || c.name.toLowerCase().includes(q.find.toLowerCase())); return html`<div class="stack"><div class="cols-2"><${Card} title=${t.settings.about}><dl class="kv"><dt>${t.brokers.version}</dt><dd>${s.version}</dd>${s.cluster_name && html`<dt>${t.settings.cluster}</dt><dd>${s.cluster_name}</dd>`}<dt>${t.settings.component}</dt><dd>${s.component}</dd><dt>${t.settings.history}</dt><dd>${t.settings.hours(s.history_hours)}</dd>${Object.entries(s.limits ?? {}).map(([k, v]) => html`<dt key=${k}>${[t.settings.limits[k] ?? k.replace(/_/g, ' ')].flat()[0]}</dt><dd class="num">${limit(k, v)}</dd>`)}</dl><//>
      <${Card} title=${t.settings.links}>${Object.values(s.links ?? {}).some(safe) ? html`<ul class="links">${Object.entries(s.links).filter(([, v]) => safe(v)).map(([k, v]) => html`<li key=${k}><a href=${safe(v)} target="_blank" rel="noopener noreferrer">${t.settings.linkNames[k] ?? k}</a> <span class="dim tiny break">${v}</span></li>`)}</ul>` : html`<p class="note">${t.settings.noLinks}</p>`}<//></div>
      <section class="card"><div class="toolbar"><h2>${t.settings.config}</h2><div class="grow"></div><${Search} value=${q.find} placeholder=${t.configs.search} onChange=${(find) => setQ({ find }, { replace: true })} /></div>${shown.length ? html`<div class="scroll" tabindex="0" role="region" aria-label=${t.settings.config}><table class="table"><caption class="sr">${t.settings.config}</caption><thead><tr><th scope="col">${t.settings.name}</th><th scope="col">${t.messages.value}</th><th scope="col">${t.settings.source}</th></tr></thead><tbody>${shown.map((c) => html`<tr key=${c.name}><td class="mono break">${c.name}</td><td class="mono break">${c.value === null || c.value === '' ? html`<${None} />` : String(c.value)}</td><td><${Badge} level=${c.source === 'default' ? '' : 'accent'}>${c.source}<//></td></tr>`)}</tbody></table></div>` : html`<${Empty} icon="settings" title=${t.configs.none} />`}</section></div>`; }}<//></div><//>`;
}
