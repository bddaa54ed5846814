// What the object store charges: measured requests and bytes, prices that can be changed, and what other settings would cost.
import { html, useEffect, useRef, useState } from '../lib.js';
import { useLoad, api, url } from '../api.js';
import { useQuery, topicPath } from '../router.js';
import { Page, Loaded, Table, Card, Stat, Empty, Num, Bytes, Problem, TextField, Unknown, sorted, Code, Segmented, Search } from '../ui/parts.js';
import { t } from '../text.js';
import * as f from '../format.js';

const WINDOWS = [['300', '5 min'], ['3600', '1 h'], ['86400', '24 h']];
const WHAT_IF = ['flush_interval_ms', 'retention_ms', 'mb_per_day'];

export function Cost() {
  const [q, setQ] = useQuery({ window: '3600', sort: 'total', order: 'desc', find: '', rows: '20' });
  const load = useLoad(url('/cost', { window_sec: q.window }), { everyMs: 60000 });
  return html`<${Page} title=${t.cost.title} sub=${t.cost.sub} load=${load} actions=${html`<${Segmented} label=${t.cost.window} options=${WINDOWS} value=${q.window} onChange=${(window) => setQ({ window })} />`}>
    <${Loaded} load=${load}>${(data) => html`<${Body} data=${data} q=${q} setQ=${setQ} />`}<//><//>`;
}

/** The address keeps prices as `p.name`, what-if values as `w.name`. */
function Body({ data, q, setQ }) {
  const prices = Object.fromEntries(Object.entries(data.prices ?? {}).map(([k, v]) => [k, q[`p.${k}`] ?? String(v)]));
  const days = q['w.days'] ?? '';
  const flush = q['w.flush'] ?? '';
  const gb = q['w.gb'] ?? '';
  const changed = Object.entries(data.prices ?? {}).some(([k, v]) => Number(prices[k]) !== Number(v)) || days || flush || gb;
  const estimate = useEstimate(changed ? {
    prices: Object.fromEntries(Object.entries(prices).map(([k, v]) => [k, Number(v)])),
    what_if: { flush_interval_ms: flush ? Number(flush) : null, retention_ms: days ? Math.round(Number(days) * 86400000) : null, mb_per_day: gb ? Number(gb) * 1000 : null },
    window_sec: Number(q.window),
  } : null);
  const shown = changed && estimate.data ? estimate.data : data;
  const what = estimate.data?.what_if;
  const total = shown.total;
  const number = (v) => (v === '' || (Number(v) >= 0 && Number.isFinite(Number(v))) ? null : t.cost.badNumber);
  const field = (key) => ({ value: q[key] ?? '', onChange: (e) => setQ({ [key]: e.target.value.trim() }, { replace: true }), error: number(q[key] ?? ''), inputmode: 'decimal' });
  const columns = [
    { key: 'topic', title: t.topics.name, sort: 'topic', cls: 'name', value: (r) => r.topic, cell: (r) => html`<a href=${topicPath(r.topic, 'cost')}>${r.topic}</a>` },
    { key: 'share', title: t.cost.share, sort: 'share', r: true, value: (r) => r.share_in, cell: (r) => html`<${Num} v=${r.share_in} as=${f.percent} />` },
    { key: 'requests', title: t.cost.requests, sort: 'requests', r: true, value: (r) => r.dollars?.requests, cell: (r) => html`<${Num} v=${r.dollars?.requests} as=${f.dollars} unit="$" />` },
    { key: 'storage', title: t.cost.storage, sort: 'storage', r: true, value: (r) => r.dollars?.storage, cell: (r) => html`<${Num} v=${r.dollars?.storage} as=${f.dollars} unit="$" />` },
    { key: 'total', title: t.cost.perMonth, sort: 'total', r: true, value: (r) => r.dollars?.total, cell: (r) => html`<strong><${Num} v=${r.dollars?.total} as=${f.dollars} unit="$" /></strong>` },
  ];
  const found = sorted((shown.topics ?? []).filter((x) => !q.find || x.topic.includes(q.find)), columns, q.sort, q.order);
  const topics = found.slice(0, Number(q.rows) || 20);
  const m = shown.measured ?? {};
  const dollarsOf = (x) => (typeof x === 'object' && x !== null ? x.total ?? x.dollars?.total ?? null : x);
  return html`<div class="stack">
    <${Problem} error=${estimate.error} />
    <div class="stats"><${Stat} k=${t.cost.perMonth} s=${t.cost.fromWindow(f.duration((m.window_sec ?? 0) * 1000))}><${Money} v=${dollarsOf(total)} /><//>
      ${what && html`<${Stat} k=${t.cost.whatIf} s=${difference(dollarsOf(total), dollarsOf(what.total ?? what))}><${Money} v=${dollarsOf(what.total ?? what)} /><//>`}
      ${typeof total === 'object' && total !== null && html`<${Stat} k=${t.cost.requests}><${Money} v=${total.requests} /><//><${Stat} k=${t.cost.storage}><${Money} v=${total.storage} /><//>`}
      <${Stat} k=${t.cost.stored}><${Bytes} v=${m.bytes_stored} /><//><${Stat} k=${t.cost.in} s=${t.cost.measuredIn}><${Bytes} v=${m.bytes_in} /><//><${Stat} k=${t.cost.out} s=${t.cost.measuredIn}><${Bytes} v=${m.bytes_out} /><//></div>
    <div class="cols-2"><${Card} title=${t.cost.prices} sub=${t.cost.pricesSub} actions=${Object.keys(q).some((k) => k.startsWith('p.')) && html`<button type="button" class="btn s" onClick=${() => setQ(Object.fromEntries(Object.keys(q).filter((k) => k.startsWith('p.')).map((k) => [k, ''])), { replace: true })}>${t.cost.resetPrices}</button>`}>
        <div class="form-grid">${inOrder(prices).map(([k, v]) => html`<${TextField} key=${k} label=${t.cost.priceNames[k] ?? k.replace(/_/g, ' ')} value=${v} inputmode="decimal" error=${number(v)} onChange=${(e) => setQ({ [`p.${k}`]: Number(e.target.value) === Number(data.prices[k]) ? '' : e.target.value.trim() }, { replace: true })} />`)}</div><//>
      <${Card} title=${t.cost.whatIf} sub=${t.cost.whatIfSub} actions=${(days || flush || gb) && html`<button type="button" class="btn s" onClick=${() => setQ({ 'w.days': '', 'w.flush': '', 'w.gb': '' }, { replace: true })}>${t.action.clear}</button>`}>
        <div class="form-grid"><${TextField} label=${t.cost.flush} help=${t.cost.flushHelp} ...${field('w.flush')} /><${TextField} label=${t.cost.retention} ...${field('w.days')} /><${TextField} label=${t.cost.gb} ...${field('w.gb')} /></div>
        ${what && html`<dl class="kv spaced">${Object.entries(what).filter(([k, v]) => v !== null && typeof v !== 'object' && !WHAT_IF.includes(k)).map(([k, v]) => html`<dt key=${k}>${k.replace(/_/g, ' ')}</dt><dd class="num">${typeof v === 'number' && /total|dollar|cost|storage|request/.test(k) ? f.dollars(v) : String(v)}</dd>`)}</dl>`}<//></div>
    <section class="card"><div class="toolbar"><h2>${t.cost.byTopic}</h2><div class="grow"></div><${Search} value=${q.find} placeholder=${t.topics.search} onChange=${(find) => setQ({ find }, { replace: true })} /></div>
      ${topics.length ? html`<${Table} columns=${columns} rows=${topics} rowKey=${(r) => r.topic} caption=${t.cost.byTopic} sort=${{ by: q.sort, order: q.order, onSort: (sort, order) => setQ({ sort, order }, { replace: true }) }} />${found.length > topics.length && html`<div class="foot"><span>${t.cost.showing(topics.length, found.length)}</span><button type="button" class="btn s" onClick=${() => setQ({ rows: String(Math.min(topics.length + 180, 1000)) }, { replace: true })}>${t.cost.showMore}</button></div>`}` : html`<${Empty} icon="cost" title=${data.partial?.length ? t.emptyUnknown : q.find ? t.topics.noMatch(q.find) : t.cost.none}>${data.partial?.length ? t.emptyUnknownHelp : q.find ? '' : t.cost.noneHelp}<//>`}</section>
    <div class="cols-2"><${Card} title=${t.cost.measured} flush>${m.requests?.length ? html`<${Table} cards=${false} caption=${t.cost.measured} rows=${m.requests} rowKey=${(r) => r.op} columns=${[{ key: 'op', title: t.storage.op, cell: (r) => html`<strong>${r.op}</strong>` }, { key: 'class', title: t.cost.class, cell: (r) => t.cost.classes[r.price_class] ?? r.price_class }, { key: 'count', title: t.cost.count, r: true, cell: (r) => html`<${Num} v=${r.count} />` }]} />` : html`<${Empty} icon="cost" title=${t.cost.noRequests} />`}<//>
      <${Card} title=${t.cost.calculation} sub=${t.cost.calculationSub}><${Code} text=${(shown.calculation ?? []).join('\n')} label=${t.cost.calculation} />${what?.calculation && html`<div class="label">${t.cost.whatIf}</div><${Code} text=${what.calculation.join('\n')} label=${t.cost.whatIf} />`}<//></div></div>`;
}

/** Prices in the order in which people think of them. */
const PRICES = ['put_per_1000', 'get_per_1000', 'list_per_1000', 'storage_gb_month', 'egress_gb'];
const place = (k) => (PRICES.includes(k) ? PRICES.indexOf(k) : PRICES.length);
const inOrder = (prices) => Object.entries(prices).sort(([a], [b]) => place(a) - place(b));

const Money = ({ v }) => (f.unknown(v) ? html`<${Unknown} />` : html`<span title=${`$${v}`}>${f.dollars(v)}</span>`);

function difference(before, after) {
  if (f.unknown(before) || f.unknown(after) || before === 0) return '';
  const change = (after - before) / before;
  return `${change >= 0 ? '+' : '−'}${f.short(Math.abs(change) * 100)} %`;
}

function useEstimate(body) {
  const [state, setState] = useState({ data: null, error: null });
  const key = body ? JSON.stringify(body) : '';
  const turn = useRef(0);
  useEffect(() => {
    const mine = ++turn.current;
    if (!key) { setState({ data: null, error: null }); return undefined; }
    const timer = setTimeout(() => api('/cost/estimate', { method: 'POST', body: JSON.parse(key) }).then(
      (data) => { if (mine === turn.current) setState({ data, error: null }); }, (error) => { if (mine === turn.current) setState((s) => ({ ...s, error })); }), 200);
    return () => clearTimeout(timer);
  }, [key]);
  return state;
}
