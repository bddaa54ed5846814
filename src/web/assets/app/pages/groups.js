// Consumer groups: one page of them; members and lag come for what is visible only.
import { html } from '../lib.js';
import { useLoad, url } from '../api.js';
import { useQuery, groupPath } from '../router.js';
import { Page, Loaded, Table, Pager, Search, Empty, Num, StateBadge, Badge } from '../ui/parts.js';
import { t } from '../text.js';


const DEFAULTS = { q: '', state: '', type: '', sort: 'id', order: 'asc', limit: '50', cursor: '' };
const STATES = ['Stable', 'Empty', 'PreparingRebalance', 'CompletingRebalance', 'Assigning', 'Reconciling', 'Dead'];

export function Groups() {
  const [q, setQ] = useQuery(DEFAULTS);
  const load = useLoad(url('/groups', { q: q.q, state: q.state, type: q.type, sort: q.sort, order: q.order, limit: q.limit, cursor: q.cursor }), { everyMs: 15000 });
  const columns = [
    { key: 'id', title: t.groups.group, sort: 'id', cls: 'name', cell: (r) => html`<a href=${groupPath(r.group_id)}>${r.group_id || t.groups.unnamed}</a>` },
    { key: 'state', title: t.groups.state, sort: 'state', cell: (r) => html`<${StateBadge} state=${r.state} />` },
    { key: 'type', title: t.groups.type, hideS: true, cell: (r) => html`<${Badge}>${t.groups.types[r.type] ?? r.type ?? t.unknown.word}<//>` },
    { key: 'members', title: t.groups.members, sort: 'members', firstOrder: 'desc', r: true, cell: (r) => html`<${Num} v=${r.members} />` },
    { key: 'lag', title: t.groups.lag, sort: 'lag', firstOrder: 'desc', r: true, cell: (r) => html`<${Num} v=${r.lag} />` },
    { key: 'topics', title: t.groups.topics, r: true, hideS: true, cell: (r) => html`<${Num} v=${Array.isArray(r.topics) ? r.topics.length : r.topics} />` },
  ];
  const filtered = q.q || q.state || q.type;
  const sort = { by: q.sort, order: q.order, onSort: (by, order) => setQ({ sort: by, order, cursor: '' }) };
  return html`<${Page} title=${t.groups.title} load=${load}><section class="card"><div class="toolbar"><${Search} value=${q.q} placeholder=${t.groups.search} onChange=${(text) => setQ({ q: text, cursor: '' }, { replace: true })} />
      <label class="sr" for="g-state">${t.groups.state}</label><select class="select" id="g-state" onChange=${(e) => setQ({ state: e.target.value, cursor: '' })}><option value="">${t.groups.anyState}</option>${STATES.map((s) => html`<option key=${s} value=${s} selected=${q.state === s}>${t.states[s]}</option>`)}</select>
      <label class="sr" for="g-type">${t.groups.type}</label><select class="select" id="g-type" onChange=${(e) => setQ({ type: e.target.value, cursor: '' })}><option value="">${t.groups.anyType}</option>${['classic', 'consumer', 'share'].map((s) => html`<option key=${s} value=${s} selected=${q.type === s}>${t.groups.types[s]}</option>`)}</select></div>
    <${Loaded} load=${load}>${(data) => (data.items.length === 0
      ? filtered ? html`<${Empty} title=${t.groups.noMatch} actions=${html`<button class="btn" onClick=${() => setQ({ q: '', state: '', type: '', cursor: '' })}>${t.action.clear}</button>`} />`
        : data.partial?.length ? html`<${Empty} icon="groups" title=${t.emptyUnknown}>${t.emptyUnknownHelp}<//>`
        : html`<${Empty} icon="groups" title=${t.groups.none}>${t.groups.noneHelp}<//>`
      : html`<${Table} columns=${columns} rows=${data.items} rowKey=${(r) => r.group_id} sort=${sort} caption=${t.groups.title} />
        <${Pager} shown=${data.items.length} total=${data.total} noun=${t.groups.noun} cursor=${q.cursor} next=${data.next_cursor} loading=${load.loading} onFirst=${() => setQ({ cursor: '' })} onNext=${() => setQ({ cursor: data.next_cursor })} />`)}<//></section><//>`;
}
