// The actor trees of the brokers and of the console: what runs, what was restarted and why, what waits.
import { html } from '../lib.js';
import { useLoad } from '../api.js';
import { useQuery } from '../router.js';
import { Page, Loaded, Search, Badge, Bar, Ago, Num, Empty, AgeBadge, None } from '../ui/parts.js';
import { t } from '../text.js';
import * as f from '../format.js';

const ROWS_MAX = 400;

export function Actors() {
  const load = useLoad('/actors', { everyMs: 5000 });
  const [q, setQ] = useQuery({ system: '', find: '', restarted: '' });
  return html`<${Page} title=${t.actors.title} sub=${t.actors.sub} load=${load}><${Loaded} load=${load}>${(data) => {
    const systems = data.systems.filter((s) => !q.system || s.system === q.system);
    return html`<div class="stack"><div class="row"><${Search} value=${q.find} placeholder=${t.actors.search} onChange=${(find) => setQ({ find }, { replace: true })} />
        <label class="sr" for="a-system">${t.actors.system}</label><select class="select w-auto" id="a-system" onChange=${(e) => setQ({ system: e.target.value })}><option value="">${t.actors.allSystems}</option>${data.systems.map((s) => html`<option key=${s.system} value=${s.system} selected=${q.system === s.system}>${s.system}</option>`)}</select>
        <label class="check"><input type="checkbox" checked=${q.restarted === '1'} onChange=${(e) => setQ({ restarted: e.target.checked ? '1' : '' }, { replace: true })} />${t.actors.restartedOnly}</label></div>
      ${systems.length ? systems.map((s) => html`<${System} key=${s.system} s=${s} q=${q} />`) : html`<section class="card"><${Empty} icon="actors" title=${t.actors.none} /></section>`}</div>`;
  }}<//><//>`;
}

/** Parts of the process first, then what there are many of, by topic and group. */
const order = (a) => `${a.path.includes('/') ? 1 : 0}${a.path.split('/')[0]} ${a.subject ?? a.path}`;

/** Depth-first, children under their parent. */
function tree(actors) {
  const children = new Map();
  const paths = new Set(actors.map((a) => a.path));
  for (const a of actors) {
    const parent = a.parent && paths.has(a.parent) ? a.parent : null;
    if (!children.has(parent)) children.set(parent, []);
    children.get(parent).push(a);
  }
  const out = [];
  const seen = new Set();
  const walk = (parent, depth) => {
    for (const a of (children.get(parent) ?? []).sort((x, y) => order(x).localeCompare(order(y), 'en', { numeric: true }))) {
      if (seen.has(a)) continue;
      seen.add(a);
      out.push([a, depth]);
      walk(a.path, depth + 1);
    }
  };
  walk(null, 0);
  return out;
}

function System({ s, q }) {
  const filtering = q.find || q.restarted === '1';
  const all = tree(s.actors ?? []);
  const rows = filtering ? all.filter(([a]) => (!q.find || `${a.path} ${a.subject ?? ''}`.toLowerCase().includes(q.find.toLowerCase())) && (q.restarted !== '1' || Number(a.restarts) > 0)).map(([a]) => [a, 0]) : all;
  const restarts = (s.actors ?? []).reduce((n, a) => n + Number(a.restarts ?? 0), 0);
  return html`<section class="card"><div class="head"><div class="grow"><h2>${s.system}</h2></div><span class="muted small">${t.actors.summary((s.actors ?? []).length, restarts)}</span><${AgeBadge} asOfMs=${s.as_of_ms} /></div>
    ${rows.length === 0 ? html`<${Empty} icon="actors" title=${filtering ? t.actors.noMatch : t.actors.none} />` : html`<div class="scroll" tabindex="0" role="region" aria-label=${t.actors.tree(s.system)}><table class="table cards"><caption class="sr">${t.actors.tree(s.system)}</caption>
      <thead><tr><th scope="col">${t.actors.actor}</th><th scope="col">${t.groups.state}</th><th scope="col" class="r">${t.actors.restarts}</th><th scope="col">${t.actors.mailbox}</th><th scope="col">${t.actors.lastExit}</th><th scope="col" class="hide-s">${t.brokers.started}</th></tr></thead>
      <tbody>${rows.slice(0, ROWS_MAX).map(([a, depth]) => html`<tr key=${a.path}><td class=${`tree d${Math.min(depth, 8)}`}><span class="break" title=${a.path}>${a.subject ? html`${a.path.split('/')[0]} <strong>${a.subject}</strong>` : filtering || depth === 0 ? a.path : a.name}</span></td><td data-label=${t.groups.state}><${Badge} level=${a.running ? 'ok' : 'crit'} dot>${a.running ? t.actors.running : t.actors.stopped}<//></td>
        <td class="r" data-label=${t.actors.restarts}><span class=${Number(a.restarts) > 0 ? 'text-warn strong' : ''}><${Num} v=${a.restarts} /></span></td>
        <td data-label=${t.actors.mailbox}>${f.unknown(a.mailbox_depth) ? (f.unknown(a.mailbox_capacity) ? html`<${None} />` : html`<span class="dim nowrap" title=${t.actors.uncounted}>${t.actors.upTo(f.int(a.mailbox_capacity))}</span>`) : html`<span class="row nowrap"><span class="num">${f.int(a.mailbox_depth)}${f.unknown(a.mailbox_capacity) ? '' : html`<span class="dim"> / ${f.int(a.mailbox_capacity)}</span>`}</span>${Number(a.mailbox_depth) > 0 && Number(a.mailbox_capacity) > 0 && html`<${Bar} share=${a.mailbox_depth / a.mailbox_capacity} level=${a.mailbox_depth / a.mailbox_capacity > 0.8 ? 'crit' : a.mailbox_depth / a.mailbox_capacity > 0.5 ? 'warn' : ''} label=${t.actors.mailbox} />`}</span>`}</td>
        <td class="break" data-label=${t.actors.lastExit}>${a.last_exit ? html`${a.last_exit} ${a.last_exit_at_ms ? html`<span class="dim">(<${Ago} ms=${a.last_exit_at_ms} />)</span>` : ''}` : html`<${None} />`}</td><td class="hide-s"><${Ago} ms=${a.started_at_ms} /></td></tr>`)}</tbody></table></div>
      ${rows.length > ROWS_MAX && html`<div class="foot">${t.more(rows.length - ROWS_MAX)}</div>`}`}</section>`;
}
