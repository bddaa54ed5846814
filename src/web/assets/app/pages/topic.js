// One topic: partitions, messages, configs, groups, segments, cost.
import { html, useState } from '../lib.js';
import { useLoad, url, seg, api, forget, useAction } from '../api.js';
import { navigate, topicPath, groupPath, useQuery, withQuery } from '../router.js';
import { Page, Loaded, Tabs, Table, Card, Stat, Empty, Num, Bytes, Time, Badge, StateBadge, WriteButton, Icon, Problem, Command, TextField, Unknown, Pager, sorted, SelectField, LoadBanners, Ago, None } from '../ui/parts.js';
import { Dialog, ConfirmDialog } from '../ui/dialog.js';
import { Messages } from './messages.js';
import { Configs } from './configs.js';
import { toast } from '../state.js';
import { t } from '../text.js';
import * as f from '../format.js';

export function Topic({ name, tab }) {
  const base = `/topics/${seg(name)}`;
  const load = useLoad(base, { everyMs: tab === 'messages' ? 30000 : 10000 });
  const [q, setQ] = useQuery();
  const close = () => setQ({ do: '' }, { replace: true });
  const topic = load.data;
  const missing = html`<div class="card"><${Empty} icon="topics" title=${t.topic.missing(name)} actions=${html`<a class="btn" href="/topics">${t.topic.all}</a>`}>${t.topic.missingHelp}<//></div>`;
  const bodies = { '': Partitions, messages: Messages, configs: Configs, groups: TopicGroups, segments: Segments, cost: TopicCost };
  const Body = bodies[tab] ?? Partitions;
  return html`<${Page} title=${name} crumbs=${[[t.topics.title, '/topics']]} load=${load}
    meta=${topic && html`${topic.internal && html`<${Badge}>${t.topics.internal}<//>`}${topic.managed_by && html`<${Badge} level="info" title=${t.topic.managedHelp}>${t.topic.managed(topic.managed_by)}<//>`}<span class="muted small">${t.topic.summary(topic.partitions.length, f.bytes(topic.size_bytes), f.compact(topic.records))}</span>`}
    actions=${html`<${WriteButton} onClick=${() => setQ({ do: 'extend' })} disabled=${!topic}><${Icon} name="plus" size=${15} />${t.topic.extend}<//><${WriteButton} onClick=${() => setQ({ do: 'truncate' })} disabled=${!topic}>${t.topic.truncate}<//><${WriteButton} class="danger" onClick=${() => setQ({ do: 'delete' })} disabled=${!topic}><${Icon} name="trash" size=${15} />${t.action.delete}<//>`}
    tabs=${html`<${Tabs} label=${t.topic.tabs} items=${['', 'messages', 'configs', 'groups', 'segments', 'cost'].map((key) => ({ href: topicPath(name, key), name: t.topic.tab[key || 'partitions'], current: (tab || '') === key }))} />`}>
    ${load.error?.status === 404 && !topic ? missing : html`<${Body} name=${name} topic=${topic} load=${load} />`}
    ${topic && q.do === 'extend' && html`<${Extend} name=${name} topic=${topic} onClose=${close} onDone=${load.reload} />`}
    ${topic && q.do === 'truncate' && html`<${Truncate} name=${name} topic=${topic} onClose=${close} onDone=${load.reload} />`}
    ${topic && q.do === 'delete' && html`<${Delete} name=${name} topic=${topic} onClose=${close} />`}<//>`;
}

function Partitions({ name, load }) {
  const [q, setQ] = useQuery({ sort: 'partition', order: 'asc' });
  const columns = [
    { key: 'partition', title: t.topic.partition, sort: 'partition', value: (r) => r.partition, cell: (r) => html`<a href=${`${topicPath(name, 'messages')}?partition=${r.partition}`} title=${t.topic.readPartition}>${r.partition}</a>` },
    { key: 'leader', title: t.topic.leader, sort: 'leader', value: (r) => r.leader, cell: (r) => (f.unknown(r.leader) || r.leader < 0 ? html`<${Badge} level="crit" dot>${t.topic.noLeader}<//>` : html`<a href=${`/brokers/${r.leader}`}>${t.broker(r.leader)}</a>`) },
    { key: 'epoch', title: t.topic.epoch, r: true, hideS: true, cell: (r) => html`<${Num} v=${r.leader_epoch} />` },
    { key: 'start', title: t.topic.start, r: true, cell: (r) => html`<${Num} v=${r.start_offset} why=${r.error} />` },
    { key: 'end', title: t.topic.end, r: true, cell: (r) => html`<${Num} v=${r.end_offset} why=${r.error} />` },
    { key: 'records', title: t.topics.records, sort: 'records', r: true, value: (r) => f.big(r.records), cell: (r) => html`<${Num} v=${r.records} why=${r.error} />` },
    { key: 'size', title: t.topics.size, sort: 'size', r: true, value: (r) => f.big(r.size_bytes), cell: (r) => html`<${Bytes} v=${r.size_bytes} why=${r.error} />` },
    { key: 'last', title: t.topic.lastRecord, sort: 'last', hideS: true, value: (r) => r.last_timestamp_ms, cell: (r) => (f.unknown(r.last_timestamp_ms) ? (r.error ? html`<${Unknown} why=${r.error} />` : html`<${None} />`) : html`<${Ago} ms=${r.last_timestamp_ms} />`) },
  ];
  return html`<${Loaded} load=${load}>${(topic) => {
    const failed = topic.partitions.filter((p) => p.error);
    return html`<div class="stack">${failed.length > 0 && html`<div class="banner warn"><${Icon} name="warn" /><div class="grow"><div class="t">${t.topic.partitionErrors(failed.length)}</div><ul>${failed.slice(0, 5).map((p) => html`<li>${t.topic.partition} ${p.partition}: ${p.error}</li>`)}</ul></div></div>`}
    <section class="card"><${Table} columns=${columns} rows=${sorted(topic.partitions, columns, q.sort, q.order)} rowKey=${(r) => r.partition} caption=${t.topic.tab.partitions} sort=${{ by: q.sort, order: q.order, onSort: (sort, order) => setQ({ sort, order }, { replace: true }) }} /></section></div>`;
  }}<//>`;
}

function TopicGroups({ name }) {
  const load = useLoad(`/topics/${seg(name)}/groups`, { everyMs: 15000 });
  const columns = [
    { key: 'id', title: t.groups.group, cls: 'name', cell: (r) => html`<a href=${groupPath(r.group_id)}>${r.group_id || t.groups.unnamed}</a>` },
    { key: 'state', title: t.groups.state, cell: (r) => html`<${StateBadge} state=${r.state} />` },
    { key: 'lag', title: t.groups.lagHere, r: true, cell: (r) => html`<${Num} v=${r.lag} />` },
  ];
  return html`<${LoadBanners} load=${load} /><${Loaded} load=${load}>${(data) => html`<section class="card">${data.items.length ? html`<${Table} columns=${columns} rows=${data.items} rowKey=${(r) => r.group_id} caption=${t.topic.tab.groups} />`
    : html`<${Empty} icon="groups" title=${t.topic.noGroups}>${t.topic.noGroupsHelp}<//>`}</section>`}<//>`;
}

function Segments({ name, topic }) {
  const [q, setQ] = useQuery({ partition: '', cursor: '', limit: '50' });
  const load = useLoad(url(`/topics/${seg(name)}/segments`, { partition: q.partition, limit: q.limit, cursor: q.cursor }));
  const columns = [
    { key: 'offsets', title: t.segments.offsets, cell: (r) => html`<span class="num"><span class="dim">${r.partition} ·</span> <a class="nowrap" href=${withQuery(topicPath(name, 'messages'), { partition: r.partition, from: 'offset', offset: r.base_offset })} title=${t.segments.read}><${Num} v=${r.base_offset} /> – <${Num} v=${r.last_offset} /></a></span>` },
    { key: 'kind', title: t.segments.kind, cell: (r) => html`<${Badge} level=${r.kind === 'compacted' ? 'accent' : r.kind === 'merged' ? 'info' : ''} title=${t.segments.kinds[r.kind]}>${r.kind}<//>` },
    { key: 'bytes', title: t.topics.size, r: true, cell: (r) => html`<${Bytes} v=${r.bytes} />` },
    { key: 'to', title: t.segments.last, hideS: true, cell: (r) => html`<${Time} ms=${r.last_timestamp_ms} />` },
    { key: 'object', title: t.segments.object, cls: 'mono break', cell: (r) => r.object ?? html`<${Unknown} />` },
  ];
  return html`<div class="stack"><${LoadBanners} load=${load} /><section class="card"><div class="toolbar">${topic && html`<label class="row small muted">${t.topic.partition}<select class="select" onChange=${(e) => setQ({ partition: e.target.value, cursor: '' })}>
      <option value="" selected=${q.partition === ''}>${t.messages.allPartitions}</option>${topic.partitions.slice(0, 1000).map((p) => html`<option key=${p.partition} value=${p.partition} selected=${q.partition === String(p.partition)}>${p.partition}</option>`)}</select></label>`}
      ${load.data?.summary && html`<span class="muted small">${t.segments.summary(f.int(load.data.summary.objects), f.bytes(load.data.summary.bytes))}</span>`}</div>
    <${Loaded} load=${load}>${(data) => (data.items.length ? html`<${Table} columns=${columns} rows=${data.items} rowKey=${(r) => `${r.partition}/${r.base_offset}/${r.object}`} caption=${t.topic.tab.segments} />
      <${Pager} shown=${data.items.length} total=${data.total} noun=${t.segments.noun} cursor=${q.cursor} next=${data.next_cursor} loading=${load.loading} onFirst=${() => setQ({ cursor: '' })} onNext=${() => setQ({ cursor: data.next_cursor })} />`
      : html`<${Empty} icon="storage" title=${data.partial?.length ? t.emptyUnknown : t.segments.none}>${data.partial?.length ? t.emptyUnknownHelp : t.segments.noneHelp}<//>`)}<//></section>
    <p class="note">${t.segments.note}</p></div>`;
}

function TopicCost({ name }) {
  const load = useLoad('/cost', { everyMs: 60000 });
  return html`<${LoadBanners} load=${load} /><${Loaded} load=${load}>${(data) => {
    const mine = (data.topics ?? []).find((x) => x.topic === name);
    if (!mine) return html`<section class="card"><${Empty} icon="cost" title=${t.cost.topicNone}>${t.cost.topicNoneHelp}<//></section>`;
    return html`<div class="stack"><div class="stats"><${Stat} k=${t.cost.perMonth}>${f.dollars(mine.dollars?.total) ?? html`<${Unknown} />`}<//><${Stat} k=${t.cost.requests}>${f.dollars(mine.dollars?.requests) ?? html`<${Unknown} />`}<//>
      <${Stat} k=${t.cost.storage}>${f.dollars(mine.dollars?.storage) ?? html`<${Unknown} />`}<//><${Stat} k=${t.cost.share}>${f.percent(mine.share_in) ?? html`<${Unknown} />`}<//></div>
      <${Card} title=${t.cost.requestsMonth}><dl class="kv">${Object.entries(mine.requests_per_month ?? {}).map(([op, n]) => html`<dt key=${op}>${op}</dt><dd><${Num} v=${n} /></dd>`)}</dl><//>
      <p class="note">${t.cost.topicNote} <a href="/cost">${t.cost.open}</a></p></div>`;
  }}<//>`;
}

function Extend({ name, topic, onClose, onDone }) {
  const now = topic.partitions.length;
  const [count, setCount] = useState(String(now + 1));
  const [preview, setPreview] = useState(null);
  const n = Number(count);
  const error = !Number.isInteger(n) || n <= now ? t.topic.extendMore(now) : null;
  const [run, state] = useAction(async (validate) => {
    const answer = await api(`/topics/${seg(name)}/partitions`, { method: 'POST', body: { count: n, validate_only: validate } });
    if (validate) { setPreview(answer); return; }
    forget(); toast(t.topic.extended(name, n)); onClose(); onDone();
  });
  return html`<${Dialog} title=${t.topic.extendTitle(name)} onClose=${onClose} onSubmit=${() => !error && !state.busy && run(!preview)} foot=${html`<button type="button" class="btn" onClick=${onClose}>${t.action.cancel}</button><button class="btn primary" disabled=${!!error || state.busy}>${state.busy ? t.working : preview ? t.topic.extend : t.action.preview}</button>`}>
    <p class="note">${t.topic.extendHelp}</p><${TextField} label=${t.topic.extendCount} value=${count} error=${error} inputmode="numeric" onInput=${(e) => { setPreview(null); setCount(e.target.value); }} />
    ${preview && html`<p>${t.topic.extendPreview(preview.before, preview.after)}</p><${Command} text=${preview.command} />`}<${Problem} error=${state.error} /><//>`;
}

/** Deletes records before an offset, as kafka-delete-records does. */
function Truncate({ name, topic, onClose, onDone }) {
  const [partition, setPartition] = useState('all');
  const [offset, setOffset] = useState('');
  const [preview, setPreview] = useState(null);
  const wanted = topic.partitions.filter((p) => partition === 'all' || String(p.partition) === partition);
  const bad = partition !== 'all' && !/^\d{1,19}$/.test(offset);
  const partitions = wanted.map((p) => ({ partition: p.partition, before_offset: partition === 'all' ? p.end_offset : offset })).filter((p) => p.before_offset !== null);
  const [run, state] = useAction(async (confirm) => {
    const answer = await api(`/topics/${seg(name)}/records/delete`, { method: 'POST', body: { partitions, confirm: confirm ?? '', validate_only: confirm === undefined } });
    if (confirm === undefined) { setPreview(answer); return; }
    forget(); toast(t.topic.truncated(name)); onClose(); onDone();
  });
  if (preview) {
    return html`<${ConfirmDialog} title=${t.topic.truncateTitle(name)} name=${name} verb=${t.topic.truncate} command=${preview.command} onClose=${onClose} run=${run} state=${state}>
      <p class="note">${t.topic.truncateHelp}</p><${Table} caption=${t.topic.truncate} cards=${false} rows=${preview.changes} rowKey=${(r) => r.partition} columns=${[
        { key: 'p', title: t.topic.partition, cell: (r) => r.partition }, { key: 'b', title: t.topic.startBefore, r: true, cell: (r) => html`<${Num} v=${r.start_before} />` }, { key: 'a', title: t.topic.startAfter, r: true, cell: (r) => html`<${Num} v=${r.start_after} />` }]} /><//>`;
  }
  return html`<${Dialog} title=${t.topic.truncateTitle(name)} onClose=${onClose} onSubmit=${() => !bad && run()} foot=${html`<button type="button" class="btn" onClick=${onClose}>${t.action.cancel}</button><button class="btn primary" disabled=${bad || state.busy}>${state.busy ? t.working : t.action.preview}</button>`}>
    <p class="note">${t.topic.truncateHelp}</p>
    <${SelectField} label=${t.topic.partition} value=${partition} onChange=${(e) => setPartition(e.target.value)} options=${[['all', t.topic.truncateAll], ...topic.partitions.slice(0, 1000).map((p) => [String(p.partition), t.topic.truncateOne(p.partition, f.int(p.start_offset), f.int(p.end_offset))])]} />
    ${partition !== 'all' && html`<${TextField} label=${t.topic.truncateBefore} value=${offset} onInput=${(e) => setOffset(e.target.value)} inputmode="numeric" />`}
    <${Problem} error=${state.error} /><//>`;
}

function Delete({ name, topic, onClose }) {
  const groups = useLoad(`/topics/${seg(name)}/groups`);
  const [run, state] = useAction(async (typed) => {
    await api(`/topics/${seg(name)}`, { method: 'DELETE', body: { confirm: typed } });
    forget(); toast(t.topic.deleted(name)); navigate('/topics');
  });
  return html`<${ConfirmDialog} title=${t.topic.deleteTitle(name)} name=${name} verb=${t.topic.deleteVerb} command=${`kafka-topics --bootstrap-server "$BOOTSTRAP" --delete --topic '${name}'`} onClose=${onClose} run=${run} state=${state}>
    <p>${t.topic.deleteText}</p><dl class="kv"><dt>${t.topics.partitions}</dt><dd>${topic.partitions.length}</dd><dt>${t.topics.records}</dt><dd><${Num} v=${topic.records} /></dd><dt>${t.topics.size}</dt><dd><${Bytes} v=${topic.size_bytes} /></dd>
      <dt>${t.topic.readers}</dt><dd>${groups.data ? (groups.data.items.length ? groups.data.items.slice(0, 8).map((g) => g.group_id).join(', ') : t.topic.noReaders) : groups.error ? html`<${Unknown} why=${groups.error.message} />` : t.loading}</dd></dl>
    ${topic.managed_by && html`<p class="note">${t.topic.managedHelp}</p>`}<//>`;
}
