// The object store as each broker sees it: state, thresholds, requests, the copy in another region, and what it was like before.
import { html } from '../lib.js';
import { useLoad } from '../api.js';
import { useQuery } from '../router.js';
import { Page, Loaded, Table, Card, Empty, Num, StateBadge, Since, Bar, Segmented, Unknown, None } from '../ui/parts.js';
import { HistoryCharts } from './history.js';
import { RANGES } from '../ui/chart.js';
import { t } from '../text.js';
import * as f from '../format.js';

export function Storage() {
  const load = useLoad('/s3', { everyMs: 5000 });
  const [q, setQ] = useQuery({ range: '1h' });
  return html`<${Page} title=${t.storage.title} sub=${t.storage.sub} load=${load}><div class="stack"><${Loaded} load=${load}>${(data) => (data.brokers.length ? html`<div class="stack">${data.brokers.map((b) => html`<${BrokerS3} key=${b.broker} b=${b} />`)}</div>` : html`<section class="card"><${Empty} icon="storage" title=${t.storage.none}>${t.storage.noneHelp}<//></section>`)}<//>
    <${Card} title=${t.overview.history} sub=${t.overview.historySub} actions=${html`<${Segmented} label=${t.chart.range} options=${RANGES.map(([k]) => [k, k])} value=${q.range} onChange=${(range) => setQ({ range }, { replace: true })} />`}><${HistoryCharts} range=${q.range} charts=${[
      { title: t.storage.latency, metrics: ['s3_p99_ms'], names: { s3_p99_ms: 'p99' }, unit: 'ms' },
      { title: t.storage.errorsRate, metrics: ['s3_errors_per_sec'], names: { s3_errors_per_sec: t.overview.errorName }, unit: 'per_sec' },
      { title: t.storage.puts, metrics: ['s3_put_per_sec'], unit: 'per_sec' }, { title: t.storage.gets, metrics: ['s3_get_per_sec'], unit: 'per_sec' }]} /><//></div><//>`;
}

function BrokerS3({ b }) {
  const th = b.thresholds ?? {};
  const columns = [
    { key: 'op', title: t.storage.op, cell: (r) => html`<strong title=${r.op}>${t.storage.ops[r.op] ?? r.op}</strong>` }, { key: 'rate', title: t.storage.rate, r: true, cell: (r) => html`<${Num} v=${r.per_sec} as=${f.rate} />` },
    { key: 'total', title: t.storage.total, r: true, cell: (r) => html`<${Num} v=${r.total} />` }, { key: 'errors', title: t.storage.errors, r: true, cell: (r) => html`<span class=${Number(r.errors) > 0 ? 'text-warn' : ''}><${Num} v=${r.errors} /></span>` },
    { key: 'p50', title: 'p50', r: true, cell: (r) => html`<${Taken} r=${r} v=${r.p50_ms} />` }, { key: 'p99', title: 'p99', r: true, cell: (r) => html`<${Taken} r=${r} v=${r.p99_ms} />` },
  ];
  return html`<section class="card"><div class="head"><div class="grow"><h2><a href=${`/brokers/${b.broker}`}>${t.broker(b.broker)}</a></h2></div><${StateBadge} state=${b.state ?? 'unknown'} /><span class="muted small"><${Since} ms=${b.since_ms} /></span></div>
    <div class="body stack-s">${b.reasons?.length > 0 && html`<ul class="reasons">${b.reasons.map((r) => html`<li key=${r}>${r}</li>`)}</ul>`}
      <div class="cols-3"><${Gauge} label=${t.storage.latencyNow} v=${b.latency_ms} as=${f.millis} warn=${th.latency_warn_ms} crit=${th.latency_crit_ms} /><${Gauge} label=${t.storage.errorRate} v=${b.error_rate} as=${f.percent} warn=${th.error_rate_warn} crit=${th.error_rate_crit} />
        <div class="gauge"><div class="label">${t.storage.replica}</div>${!b.replica ? html`<${Unknown} />` : b.replica.configured ? html`<div>${t.storage.replicaUse(f.int(b.replica.hits) ?? t.unknown.word, f.int(b.replica.fallbacks) ?? t.unknown.word)}</div>` : html`<div class="dim">${t.storage.noReplica}</div>`}</div></div>
      ${!f.unknown(b.window_sec) && html`<p class="note">${t.storage.window(b.window_sec)}</p>`}</div>
    ${b.requests?.length > 0 && html`<${Table} columns=${columns} rows=${b.requests} rowKey=${(r) => r.op} caption=${t.storage.requests(b.broker)} />`}</section>`;
}

/** How long requests took; of none there is none. */
const Taken = ({ r, v }) => (String(r.total) === '0' ? html`<${None} />` : html`<${Num} v=${v} as=${f.millis} unit="ms" />`);

function Gauge({ label, v, as, warn, crit }) {
  const level = f.unknown(v) ? '' : !f.unknown(crit) && v >= crit ? 'crit' : !f.unknown(warn) && v >= warn ? 'warn' : '';
  return html`<div class="gauge"><div class="label">${label}</div><div class="gauge-value"><${Num} v=${v} as=${as} /></div>${!f.unknown(v) && !f.unknown(crit) && html`<${Bar} share=${v / crit} level=${level} label=${t.storage.gauge(as(v), as(crit))} />`}
    <div class="dim tiny">${f.unknown(warn) && f.unknown(crit) ? t.storage.noThreshold : t.storage.thresholds(as(warn) ?? t.unknown.word, as(crit) ?? t.unknown.word)}</div></div>`;
}
