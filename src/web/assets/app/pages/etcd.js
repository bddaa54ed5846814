// etcd: members as they answer themselves, and snapshots.
import { html } from '../lib.js';
import { useLoad } from '../api.js';
import { Page, Loaded, Card, Badge, StateBadge, Bytes, Num, Unknown, Ago, Empty, Banner, Bar, Code, Since, Table, AgeBadge } from '../ui/parts.js';
import { t } from '../text.js';

export function Etcd() {
  const load = useLoad('/etcd', { everyMs: 10000 });
  return html`<${Page} title=${t.etcd.title} load=${load} meta=${load.data && html`${load.data.state && load.data.state !== 'embedded' && html`<${StateBadge} state=${load.data.state} />`}<${Badge}>${t.etcd.kinds[load.data.kind] ?? load.data.kind}<//>`}><${Loaded} load=${load}>${(d) => html`<div class="stack">
    ${['degraded', 'unavailable'].includes(d.state) && html`<${Banner} level=${d.state === 'degraded' ? 'warn' : 'crit'} title=${t.states[d.state]} live>${d.reasons?.length > 0 && html`<ul>${d.reasons.map((r) => html`<li key=${r}>${r}</li>`)}</ul>`}<${Since} ms=${d.since_ms} /><//>`}
    ${d.kind === 'embedded' && html`<${Banner} level="info" title=${t.etcd.embedded}>${t.etcd.embeddedHelp}<//>`}
    ${d.members?.length > 0 ? html`<div class="members">${d.members.map((m) => html`<${Member} key=${m.endpoint} m=${m} />`)}</div>` : d.kind !== 'embedded' && html`<section class="card"><${Empty} icon="etcd" title=${t.etcd.none}>${t.etcd.noneHelp}<//></section>`}
    ${d.snapshots ? html`<${Snapshots} s=${d.snapshots} />` : html`<${Card} title=${t.etcd.snapshots}><div class="stack-s"><p class="note">${d.kind === 'embedded' ? t.etcd.noSnapshotsEmbedded : t.etcd.noSnapshots}</p>${d.kind !== 'embedded' && html`<${Code} text=${'etcdctl snapshot save kafscale-$(date +%s).db'} label=${t.etcd.snapshots} />`}</div><//>`}</div>`}<//><//>`;
}

function Member({ m }) {
  const used = m.db_size_bytes && m.db_in_use_bytes ? Number(m.db_in_use_bytes) / Number(m.db_size_bytes) : null;
  return html`<section class="card"><div class="head"><div class="grow"><h2 class="break">${m.endpoint}</h2></div>${m.is_leader && html`<${Badge} level="accent">${t.etcd.leader}<//>`}<${StateBadge} state=${m.healthy === null || m.healthy === undefined ? 'unknown' : m.healthy ? 'healthy' : 'unavailable'} /></div>
    <div class="body stack-s">${m.error && html`<p class="text-crit small break">${m.error}</p>`}${m.alarms?.length > 0 && html`<${Banner} level="crit" title=${t.etcd.alarms}>${m.alarms.join(', ')}<//>`}
      <dl class="kv"><dt>${t.brokers.version}</dt><dd>${m.version ?? html`<${Unknown} why=${m.error} />`}</dd><dt>${t.etcd.size}</dt><dd><${Bytes} v=${m.db_size_bytes} why=${m.error} /></dd><dt>${t.etcd.inUse}</dt><dd><${Bytes} v=${m.db_in_use_bytes} why=${m.error} />${used !== null && html`<${Bar} share=${used} label=${t.etcd.inUse} />`}</dd>
        <dt>${t.etcd.revision}</dt><dd><${Num} v=${m.revision} why=${m.error} /></dd><dt>${t.etcd.term}</dt><dd><${Num} v=${m.raft_term} why=${m.error} /></dd></dl></div></section>`;
}

/** What the operator tells, of each cluster that it looks after. */
function Snapshots({ s }) {
  const columns = [
    { key: 'cluster', title: t.etcd.snapshotCluster, cls: 'name', cell: (r) => `${r.namespace}/${r.cluster}` },
    { key: 'state', title: t.etcd.snapshotState, cell: (r) => (r.succeeded === null ? html`<${Unknown} />` : !r.succeeded ? html`<${Badge} level="warn" dot>${t.etcd.noSuccess}<//>` : html`<${Badge} level=${r.stale ? 'crit' : 'ok'} dot>${r.stale ? t.etcd.stale : t.etcd.fine}<//>`) },
    { key: 'success', title: t.etcd.lastSuccess, cell: (r) => html`<${Ago} ms=${r.last_success_ms} fallback=${t.etcd.never} />` },
    { key: 'begun', title: t.etcd.lastBegun, cell: (r) => html`<${Ago} ms=${r.last_begun_ms} fallback=${t.etcd.never} />` },
    { key: 'bucket', title: t.etcd.bucket, cell: (r) => (r.writable === null ? html`<span class="dim">${t.etcd.notTried}</span>` : html`<${Badge} level=${r.writable ? 'ok' : 'crit'} dot>${r.writable ? t.etcd.writable : t.etcd.notWritable}<//>`) },
  ];
  const first = s.clusters[0];
  return html`<section class="card"><div class="head"><div class="grow"><h2>${t.etcd.snapshots}</h2></div><${AgeBadge} asOfMs=${s.as_of_ms} /></div>
    <${Table} columns=${columns} rows=${s.clusters} rowKey=${(r) => `${r.namespace}/${r.cluster}`} caption=${t.etcd.snapshots} />
    <div class="body stack-s"><p class="note">${t.etcd.snapshotHelp}</p><${Code} text=${`kubectl -n ${first?.namespace ?? 'NAMESPACE'} describe kafscalecluster ${first?.cluster ?? 'NAME'}`} label=${t.etcd.snapshots} /></div></section>`;
}
