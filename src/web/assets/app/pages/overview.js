// Is the cluster well, and if not, why and since when.
import { html } from '../lib.js';
import { useLoad } from '../api.js';
import { feed, recent } from '../live.js';
import { nowMs } from '../state.js';
import { useQuery } from '../router.js';
import { Page, Card, Stat, Figure, StateBadge, Since, Banner, Badge, Loaded, Segmented, Unknown } from '../ui/parts.js';
import { Spark, RANGES } from '../ui/chart.js';
import { HistoryCharts } from './history.js';
import { t } from '../text.js';
import * as f from '../format.js';

const LEVEL = { ok: 'ok', warn: 'warn', critical: 'crit', unknown: 'info' };

export function Overview() {
  const asked = useLoad('/overview', { everyMs: 10000 });
  // Whichever is newer: the stream's last tick or the last answer.
  const tick = feed.value.tick?.overview;
  const data = tick && (!asked.data || (tick.as_of_ms ?? 0) >= (asked.data.as_of_ms ?? 0)) ? tick : asked.data;
  const load = { ...asked, data, error: tick && nowMs.value - (tick.as_of_ms ?? 0) < 10000 ? null : asked.error };
  return html`<${Page} title=${t.overview.title} load=${load}><${Loaded} load=${load}>${(o) => html`<${Body} o=${o} />`}<//><//>`;
}

function Body({ o }) {
  const [q, setQ] = useQuery({ range: '15m' });
  const brokers = o.brokers ?? {};
  const rates = o.rates ?? {};
  const reasons = o.health?.reasons ?? [];
  return html`<div class="stack">
    <${Health} health=${o.health} reasons=${reasons} />
    <div class="stats">
      <${Rated} k=${t.overview.in} v=${rates.bytes_in_per_sec} parts=${f.bytesParts} suffix="/s" of="bytes_in_per_sec" />
      <${Rated} k=${t.overview.out} v=${rates.bytes_out_per_sec} parts=${f.bytesParts} suffix="/s" of="bytes_out_per_sec" />
      <${Rated} k=${t.overview.records} v=${rates.records_in_per_sec} parts=${f.compactParts} suffix="/s" of="records_in_per_sec" />
      <${Rated} k=${t.overview.produceP99} v=${rates.produce_p99_ms} suffix="ms" of="produce_p99_ms" s=${f.unknown(rates.produce_p50_ms) ? '' : t.overview.p50(f.millis(rates.produce_p50_ms))} />
      <${Rated} k=${t.overview.fetchP99} v=${rates.fetch_p99_ms} suffix="ms" of="fetch_p99_ms" s=${t.overview.fetchWaits} />
      <${Rated} k=${t.overview.requests} v=${rates.requests_per_sec} parts=${f.compactParts} suffix="/s" of="requests_per_sec" />
    </div>
    <div class="stats">
      <${Stat} k=${t.overview.brokers} href="/brokers" s=${t.overview.brokersSub(brokers)}>${f.unknown(brokers.live) ? html`<${Unknown} />` : html`${brokers.live}${!f.unknown(brokers.total) && html`<span class="unit">${t.overview.of(brokers.total)}</span>`}`}<//>
      <${Stat} k=${t.overview.topics} href="/topics" s=${f.unknown(o.partitions) ? '' : t.overview.partitions(f.int(o.partitions))}>${f.int(o.topics) ?? html`<${Unknown} />`}<//>
      <${Stat} k=${t.overview.groups} href="/groups">${f.int(o.groups) ?? html`<${Unknown} />`}<//>
      <${Stat} k=${t.overview.leaderless} s=${t.overview.leaderlessSub}><span class=${Number(o.leaderless_partitions) > 0 ? 'text-crit' : ''}>${f.int(o.leaderless_partitions) ?? html`<${Unknown} />`}</span><//>
      <${Dependency} k=${t.overview.s3} state=${o.s3} href="/storage" s=${[f.unknown(rates.s3_puts_per_sec) ? null : t.overview.puts(f.rate(rates.s3_puts_per_sec)), f.unknown(rates.s3_gets_per_sec) ? null : t.overview.gets(f.rate(rates.s3_gets_per_sec))].filter(Boolean).join(' · ')} />
      <${Dependency} k=${t.overview.etcd} state=${o.etcd} href="/etcd" />
    </div>
    <${Card} title=${t.overview.history} sub=${t.overview.historySub} actions=${html`<${Segmented} label=${t.chart.range} options=${RANGES.map(([k]) => [k, k])} value=${q.range} onChange=${(range) => setQ({ range }, { replace: true })} />`}>
      <${HistoryCharts} range=${q.range} charts=${[
        { title: t.overview.throughput, metrics: ['bytes_in_per_sec', 'bytes_out_per_sec'], names: { bytes_in_per_sec: t.overview.in, bytes_out_per_sec: t.overview.out }, unit: 'bytes_per_sec', sum: true },
        { title: t.overview.latency, metrics: ['produce_p99_ms', 'fetch_p99_ms'], names: { produce_p99_ms: t.overview.produceP99, fetch_p99_ms: t.overview.fetchP99 }, unit: 'ms', max: true },
        { title: t.overview.s3Requests, metrics: ['s3_put_per_sec', 's3_get_per_sec', 's3_errors_per_sec'], names: { s3_put_per_sec: t.overview.putName, s3_get_per_sec: t.overview.getName, s3_errors_per_sec: t.overview.errorName }, unit: 'per_sec', sum: true },
        { title: t.overview.requestRate, metrics: ['requests_per_sec'], names: { requests_per_sec: t.overview.requests }, unit: 'per_sec', sum: true },
      ]} />
    <//></div>`;
}

function Health({ health, reasons }) {
  const level = health?.level ?? 'unknown';
  return html`<${Banner} level=${LEVEL[level] ?? 'info'} title=${t.health[level] ?? level} live>
    ${reasons.length > 0 && html`<ul>${reasons.map((r, i) => html`<li key=${i}>${reasons.length > 1 && html`<${Badge} level=${LEVEL[r.level] ?? ''}>${t.levels[r.level] ?? r.level}<//> `}${f.sentence(r.text)} ${r.since_ms ? html`<span class="dim"><${Since} ms=${r.since_ms} /></span> ` : ''}${typeof r.link === 'string' && r.link.startsWith('/') && !r.link.startsWith('//') && html`<a href=${r.link}>${t.overview.look}</a>`}</li>`)}</ul>`}
    ${reasons.length === 0 && level === 'ok' && html`<div class="muted">${t.health.okText}</div>`}<//>`;
}

function Rated({ k, v, parts, suffix, of, s }) {
  const points = recent.value.map(([time, rates]) => [time, rates[of]]);
  return html`<div class="stat"><div class="k">${k}</div><div class="v"><${Figure} v=${v} parts=${parts} suffix=${suffix} /></div><div class="s">${s}</div><${Spark} points=${points} label=${t.chart.recent(k)} /></div>`;
}

function Dependency({ k, state, href, s }) {
  const known = state?.state;
  return html`<${Stat} k=${k} href=${href} s=${state?.reasons?.[0] ?? s}><span class="state-line"><${StateBadge} state=${known ?? 'unknown'} /></span>${known !== 'healthy' && known !== 'embedded' && state?.since_ms ? html`<div class="tiny muted"><${Since} ms=${state.since_ms} /></div>` : ''}<//>`;
}
