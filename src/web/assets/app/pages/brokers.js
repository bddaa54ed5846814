// Brokers: which are there, what they carry; draining one before it goes away.
import { html } from '../lib.js';
import { useLoad, api, forget, useAction } from '../api.js';
import { feed } from '../live.js';
import { useQuery } from '../router.js';
import { Page, Loaded, Table, Card, Stat, Figure, Empty, Num, Rate, StateBadge, Badge, WriteButton, Problem, Unknown, Ago, Bar, Banner, Tabs, Segmented, None } from '../ui/parts.js';
import { ConfirmDialog } from '../ui/dialog.js';
import { HistoryCharts } from './history.js';
import { ConfigTable } from './configs.js';
import { RANGES } from '../ui/chart.js';
import { toast } from '../state.js';
import { t } from '../text.js';
import * as f from '../format.js';

export function Brokers() {
  const load = useLoad('/brokers', { everyMs: 5000 });
  const live = Object.fromEntries((feed.value.tick?.brokers ?? []).map((b) => [b.id, b]));
  const columns = [
    { key: 'id', title: t.brokers.broker, cls: 'name', cell: (b) => html`<span class="row"><a href=${`/brokers/${b.id}`}>${t.broker(b.id)}</a>${b.controller && html`<${Badge} level="accent">${t.brokers.controller}<//>`}</span>` },
    { key: 'state', title: t.groups.state, cell: (b) => html`<${BrokerState} b=${b} />` },
    { key: 'addr', title: t.brokers.address, hideS: true, cls: 'nowrap', cell: (b) => (f.unknown(b.host) ? html`<${Unknown} />` : `${b.host}:${b.port}`) },
    { key: 'rack', title: t.brokers.rack, hideM: true, cls: 'nowrap', cell: (b) => b.rack ?? html`<${None} />` },
    { key: 'led', title: t.brokers.led, r: true, cell: (b) => html`<${Num} v=${b.partitions_led} />` },
    { key: 'conn', title: t.brokers.connections, r: true, hideM: true, cell: (b) => html`<${Num} v=${b.connections} />` },
    { key: 'in', title: t.topics.in, r: true, cell: (b) => html`<${Rate} v=${live[b.id]?.bytes_in_per_sec ?? b.bytes_in_per_sec} />` },
    { key: 'out', title: t.topics.out, r: true, cell: (b) => html`<${Rate} v=${live[b.id]?.bytes_out_per_sec ?? b.bytes_out_per_sec} />` },
    { key: 's3', title: t.nav.s3, cell: (b) => html`<${StateBadge} state=${b.s3_state ?? 'unknown'} />` },
    { key: 'cache', title: t.brokers.cache, r: true, hideM: true, cell: (b) => html`<${Num} v=${b.cache_hit_ratio} as=${f.percent} />` },
    { key: 'version', title: t.brokers.version, hideM: true, cell: (b) => b.version ?? html`<${Unknown} />` },
    { key: 'up', title: t.brokers.started, hideM: true, cell: (b) => html`<${Ago} ms=${b.started_at_ms} />` },
  ];
  return html`<${Page} title=${t.brokers.title} load=${load}><${Loaded} load=${load}>${(data) => html`<section class="card">${data.items.length ? html`<${Table} columns=${columns} rows=${data.items} rowKey=${(b) => b.id} caption=${t.brokers.title} />`
    : html`<${Empty} icon="brokers" title=${t.brokers.none}>${data.partial?.some((p) => p.source === 'etcd') ? t.brokers.noneStale : t.brokers.noneHelp}<//>`}</section>`}<//><//>`;
}

const BrokerState = ({ b }) => (b.draining ? html`<${StateBadge} state="draining" />` : b.metrics === 'unreachable' ? html`<${StateBadge} state="unreachable" title=${t.brokers.metricsUnreachable} />` : b.metrics === 'unknown' ? html`<${StateBadge} state="unknown" title=${t.brokers.metricsUnknown} />` : html`<${StateBadge} state="live" />`);

export function Broker({ id }) {
  const load = useLoad(`/brokers/${id}`, { everyMs: 5000 });
  const [q, setQ] = useQuery({ tab: '', range: '1h' });
  const drain = useLoad(`/brokers/${id}/drain`, { everyMs: load.data?.draining ? 2000 : 10000 });
  const b = load.data;
  const close = () => setQ({ do: '' }, { replace: true });
  const [undrain, undraining] = useAction(async () => { await api(`/brokers/${id}/undrain`, { method: 'POST' }); forget(); toast(t.brokers.undrained(id)); load.reload(); drain.reload(); });
  const drainState = drain.data?.state;
  const drained = b?.draining || drainState === 'draining' || drainState === 'drained';
  const noControl = b && b.control !== 'ok';
  const missing = html`<div class="card"><${Empty} icon="brokers" title=${t.brokers.missing(id)} actions=${html`<a class="btn" href="/brokers">${t.brokers.all}</a>`}>${t.brokers.missingHelp}<//></div>`;
  return html`<${Page} title=${t.broker(id)} crumbs=${[[t.brokers.title, '/brokers']]} load=${load}
    meta=${b && html`<${BrokerState} b=${b} />${b.controller && html`<${Badge} level="accent">${t.brokers.controller}<//>`}<span class="muted small break">${f.unknown(b.host) ? '' : `${b.host}:${b.port}`}</span>`}
    actions=${b && (drained ? html`<${WriteButton} class="primary" disabled=${undraining.busy} onClick=${undrain}>${undraining.busy ? t.working : t.brokers.undrain}<//>` : html`<${WriteButton} class="danger" disabled=${noControl} title=${noControl ? t.brokers.noControl : undefined} onClick=${() => setQ({ do: 'drain' })}>${t.brokers.drain}<//>`)}
    tabs=${html`<${Tabs} label=${t.brokers.tabs} items=${['', 'configs'].map((key) => ({ href: `/brokers/${id}${key ? `?tab=${key}` : ''}`, name: t.brokers.tab[key || 'overview'], current: q.tab === key }))} />`}>
    <${Problem} error=${undraining.error} />
    <${Loaded} load=${load} missing=${missing}>${(x) => (q.tab === 'configs' ? html`<section class="card">${x.configs ? '' : html`<${Empty} icon="settings" title=${t.brokers.configsUnknown} />`}${x.configs && html`<${ConfigTable} items=${x.configs} own=${(c) => !/^DEFAULT/.test(c.source ?? '')} />`}</section>` : html`<${BrokerBody} b=${x} drain=${drain.data} q=${q} setQ=${setQ} />`)}<//>
    ${b && q.do === 'drain' && html`<${Drain} id=${id} b=${b} onClose=${close} onDone=${() => { load.reload(); drain.reload(); }} />`}<//>`;
}

function BrokerBody({ b, drain, q, setQ }) {
  const share = drain?.total ? drain.moved / drain.total : 0;
  return html`<div class="stack">
    ${drain && drain.state && drain.state !== 'none' && html`<${Banner} level=${drain.state === 'failed' ? 'crit' : drain.state === 'drained' ? 'ok' : 'warn'} title=${t.brokers.drainStates[drain.state] ?? drain.state} live>${drain.text && html`<div>${drain.text}</div>`}
      ${!f.unknown(drain.total) && Number(drain.total) > 0 && html`<div class="stack-s"><div>${t.brokers.moved(f.int(drain.moved), f.int(drain.total))}</div><${Bar} share=${share} label=${t.brokers.moved(f.int(drain.moved), f.int(drain.total))} /></div>`}<//>`}
    <div class="stats"><${Stat} k=${t.topics.in}><${Figure} v=${b.bytes_in_per_sec} parts=${f.bytesParts} suffix="/s" /><//><${Stat} k=${t.topics.out}><${Figure} v=${b.bytes_out_per_sec} parts=${f.bytesParts} suffix="/s" /><//><${Stat} k=${t.brokers.led}><${Num} v=${b.partitions_led} /><//>
      <${Stat} k=${t.brokers.connections}><${Num} v=${b.connections} /><//><${Stat} k=${t.brokers.cache}><${Num} v=${b.cache_hit_ratio} as=${f.percent} /><//><${Stat} k=${t.nav.s3} href="/storage"><span class="state-line"><${StateBadge} state=${b.s3_state ?? 'unknown'} /></span><//></div>
    <${Card} title=${t.overview.history} actions=${html`<${Segmented} label=${t.chart.range} options=${RANGES.map(([k]) => [k, k])} value=${q.range} onChange=${(range) => setQ({ range }, { replace: true })} />`}><${HistoryCharts} range=${q.range} labels=${{ broker: b.id }} charts=${[
      { title: t.overview.throughput, metrics: ['bytes_in_per_sec', 'bytes_out_per_sec'], names: { bytes_in_per_sec: t.overview.in, bytes_out_per_sec: t.overview.out }, unit: 'bytes_per_sec', sum: true },
      { title: t.overview.latency, metrics: ['produce_p99_ms', 'fetch_p99_ms'], names: { produce_p99_ms: t.overview.produceP99, fetch_p99_ms: t.overview.fetchP99 }, unit: 'ms', max: true },
      { title: t.brokers.connections, metrics: ['connections'], names: { connections: t.brokers.connections }, unit: 'count', sum: true },
      { title: t.brokers.led, metrics: ['partitions_led'], names: { partitions_led: t.brokers.led }, unit: 'count', sum: true }]} /><//>
    <div class="cols-2"><${Card} title=${t.brokers.about}><dl class="kv"><dt>${t.brokers.version}</dt><dd>${b.version ?? html`<${Unknown} />`}</dd><dt>${t.brokers.rack}</dt><dd>${b.rack ?? html`<${None} />`}</dd><dt>${t.brokers.started}</dt><dd><${Ago} ms=${b.started_at_ms} /></dd>
        <dt>${t.brokers.metrics}</dt><dd>${t.brokers.reach[b.metrics] ?? b.metrics ?? html`<${Unknown} />`}</dd><dt>${t.brokers.control}</dt><dd>${t.brokers.reach[b.control] ?? b.control ?? html`<${Unknown} />`}</dd>
        <dt>${t.nav.actors}</dt><dd><a href=${`/actors?system=${encodeURIComponent(`broker ${b.id}`)}`}>${t.brokers.actorsRunning(f.int(b.actors_running) ?? t.unknown.word, f.int(b.actor_restarts) ?? t.unknown.word)}</a></dd></dl><//>
      <${Card} title=${t.brokers.readiness}><${Readiness} r=${b.readiness} /><//></div></div>`;
}

function Readiness({ r }) {
  if (!r) return html`<${Unknown} />`;
  const failing = Object.entries(r.failing ?? {});
  return html`<div class="stack-s"><div><${Badge} level=${r.ready ? 'ok' : 'crit'} dot>${r.ready ? t.brokers.ready : t.brokers.notReady}<//></div>${failing.length > 0 && html`<dl class="kv">${failing.map(([name, why]) => html`<dt key=${name}>${name.replace(/_/g, ' ')}</dt><dd>${why}</dd>`)}</dl>`}</div>`;
}

function Drain({ id, b, onClose, onDone }) {
  const [run, state] = useAction(async (typed) => { await api(`/brokers/${id}/drain`, { method: 'POST', body: { confirm: typed } }); forget(); toast(t.brokers.drainStarted(id)); onClose(); onDone(); });
  return html`<${ConfirmDialog} title=${t.brokers.drainTitle(id)} name=${String(id)} verb=${t.brokers.drain} command=${`kafscale drain --broker ${id}`} onClose=${onClose} run=${run} state=${state}>
    <p>${t.brokers.drainText(f.int(b.partitions_led) ?? t.unknown.word)}</p><//>`;
}
