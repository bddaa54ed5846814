// One consumer group: who reads what, how far behind and since when; resetting offsets with a preview; deleting.
import { html, useMemo, useState } from '../lib.js';
import { useLoad, seg, api, forget, useAction } from '../api.js';
import { useQuery, topicPath, navigate } from '../router.js';
import { Page, Loaded, Table, Card, Stat, Empty, Num, StateBadge, WriteButton, Icon, Problem, TextField, Unknown, sorted, SelectField, Badge, Banner, Since, None, Field } from '../ui/parts.js';
import { Dialog, ConfirmDialog } from '../ui/dialog.js';
import { Chart } from '../ui/chart.js';
import { toast, serverNow } from '../state.js';
import { t } from '../text.js';
import * as f from '../format.js';

const ROWS_MAX = 500;

export function Group({ id }) {
  const load = useLoad(`/groups/${seg(id)}`, { everyMs: 10000 });
  const [q, setQ] = useQuery();
  const close = () => setQ({ do: '', topic: '' }, { replace: true });
  const group = load.data;
  const missing = html`<div class="card"><${Empty} icon="groups" title=${t.group.missing(id)} actions=${html`<a class="btn" href="/groups">${t.group.all}</a>`}>${t.group.missingHelp}<//></div>`;
  return html`<${Page} title=${id || t.groups.unnamed} crumbs=${[[t.groups.title, '/groups']]} load=${load}
    meta=${group && html`<${StateBadge} state=${group.state} /><${Badge}>${t.groups.types[group.type] ?? group.type ?? t.unknown.word}<//>`}
    actions=${html`<${WriteButton} onClick=${() => setQ({ do: 'reset' })} disabled=${!group}><${Icon} name="refresh" size=${15} />${t.group.reset}<//><${WriteButton} class="danger" onClick=${() => setQ({ do: 'delete' })} disabled=${!group}><${Icon} name="trash" size=${15} />${t.action.delete}<//>`}>
    <${Loaded} load=${load} missing=${missing}>${(g) => html`<${Body} g=${g} />`}<//>
    ${group && q.do === 'reset' && html`<${Reset} g=${group} only=${q.topic} onClose=${close} onDone=${load.reload} />`}
    ${group && q.do === 'delete' && html`<${Delete} g=${group} onClose=${close} />`}
    ${group && q.do === 'forget' && q.topic && html`<${ForgetTopic} g=${group} topic=${q.topic} onClose=${close} onDone=${load.reload} />`}<//>`;
}

function Body({ g }) {
  const [q, setQ] = useQuery({ sort: 'topic', order: 'asc', lagging: '' });
  const owner = useMemo(() => Object.fromEntries((g.members ?? []).map((m) => [m.member_id, m])), [g]);
  const offsetColumns = [
    { key: 'topic', title: t.groups.topic, sort: 'topic', cls: 'name', value: (r) => `${r.topic}\u0000${String(r.partition).padStart(9, '0')}`, cell: (r) => html`<a href=${`${topicPath(r.topic, 'messages')}?partition=${r.partition}&from=offset&offset=${r.committed ?? r.start_offset ?? 0}`}>${r.topic}</a> <span class="dim">${r.partition}</span>` },
    { key: 'committed', title: t.group.committed, r: true, cell: (r) => (r.committed === null ? html`<span class="dim">${t.group.noCommit}</span>` : html`<${Num} v=${r.committed} />`) },
    { key: 'end', title: t.topic.end, r: true, cell: (r) => html`<${Num} v=${r.end_offset} />` },
    { key: 'lag', title: t.groups.lag, sort: 'lag', r: true, value: (r) => f.big(r.lag), cell: (r) => html`<${Num} v=${r.lag} />` },
    { key: 'member', title: t.group.member, hideS: true, cell: (r) => (r.member_id ? html`<span class="break" title=${r.member_id}>${owner[r.member_id]?.client_id ?? r.member_id}</span>` : html`<span class="dim">${t.group.nobody}</span>`) },
    { key: 'meta', title: t.group.metadata, hideS: true, cls: 'break', cell: (r) => r.metadata || html`<${None} />` },
  ];
  const memberColumns = [
    { key: 'client', title: t.group.client, cls: 'break', cell: (m) => html`<strong>${m.client_id || t.group.noClient}</strong><div class="dim tiny break">${m.member_id}</div>` },
    { key: 'host', title: t.group.host, cell: (m) => m.host ?? html`<${Unknown} />` },
    { key: 'instance', title: t.group.instance, hideS: true, cell: (m) => m.instance_id ?? html`<${None} />` },
    { key: 'parts', title: t.group.assigned, cell: (m) => html`<${Assigned} assignments=${m.assignments ?? []} />` },
  ];
  const topics = [...new Set(g.offsets.map((o) => o.topic))];
  const rows = sorted(g.offsets.filter((o) => q.lagging !== '1' || (f.big(o.lag) ?? 1n) > 0n), offsetColumns, q.sort, q.order);
  const history = (g.lag_history ?? []).map(([time, lag]) => [time, lag]);
  return html`<div class="stack">
    ${!f.unknown(g.stuck_since_ms) && html`<${Banner} level="crit" title=${t.group.stuck} live>${t.group.stuckHelp} <${Since} ms=${g.stuck_since_ms} /><//>`}
    <div class="stats"><${Stat} k=${t.group.lagTotal}><${Num} v=${g.lag_total} /><//><${Stat} k=${t.groups.members}>${(g.members ?? []).length}<//><${Stat} k=${t.groups.topics}>${topics.length}<//>
      <${Stat} k=${t.group.coordinator}>${f.unknown(g.coordinator) ? html`<${Unknown} />` : html`<a href=${`/brokers/${g.coordinator}`}>${t.broker(g.coordinator)}</a>`}<//><${Stat} k=${t.group.assignor}><span class="stat-word">${g.assignor || html`<${None} />`}</span><//></div>
    <${Card} title=${t.group.lagHistory} sub=${t.group.lagHistorySub}><${Chart} title=${t.groups.lag} unit="count" series=${[{ name: t.groups.lag, points: history }]} empty=${t.group.noHistory} /><//>
    <section class="card"><div class="head"><div class="grow"><h2>${t.group.offsets}</h2></div><label class="check"><input type="checkbox" checked=${q.lagging === '1'} onChange=${(e) => setQ({ lagging: e.target.checked ? '1' : '' }, { replace: true })} />${t.group.onlyLagging}</label></div>
      ${rows.length === 0 ? html`<${Empty} icon="groups" title=${g.offsets.length ? t.group.noneLagging : t.group.noOffsets}>${g.offsets.length ? '' : t.group.noOffsetsHelp}<//>` : html`<${Table} columns=${offsetColumns} rows=${rows.slice(0, ROWS_MAX)} rowKey=${(r) => `${r.topic}/${r.partition}`} caption=${t.group.offsets} sort=${{ by: q.sort, order: q.order, onSort: (sort, order) => setQ({ sort, order }, { replace: true }) }} />`}
      ${rows.length > ROWS_MAX && html`<div class="foot">${t.more(rows.length - ROWS_MAX)}</div>`}
      ${topics.length > 0 && html`<div class="foot"><span>${t.group.perTopic}</span><div class="row">${topics.slice(0, 12).map((topic) => html`<${WriteButton} key=${topic} class="s" onClick=${() => setQ({ do: 'forget', topic })}>${t.group.forget(topic)}<//>`)}</div></div>`}</section>
    <section class="card"><div class="head"><h2>${t.groups.members}</h2></div>${g.members?.length ? html`<${Table} columns=${memberColumns} rows=${g.members} rowKey=${(m) => m.member_id} caption=${t.groups.members} />` : html`<${Empty} icon="user" title=${t.group.noMembers}>${t.group.noMembersHelp}<//>`}</section></div>`;
}

const Assigned = ({ assignments }) => (assignments.length === 0 ? html`<span class="dim">${t.group.nothing}</span>` : html`<ul>${assignments.slice(0, 6).map((a) => html`<li key=${a.topic}><a href=${topicPath(a.topic)}>${a.topic}</a> <span class="dim">${ranges(a.partitions)}</span></li>`)}${assignments.length > 6 && html`<li class="dim">${t.more(assignments.length - 6)}</li>`}</ul>`);

/** 0–3, 7 */
function ranges(partitions) {
  const all = [...partitions].sort((a, b) => a - b);
  const out = [];
  for (let i = 0; i < all.length;) {
    let j = i;
    while (j + 1 < all.length && all[j + 1] === all[j] + 1) j += 1;
    out.push(i === j ? `${all[i]}` : `${all[i]}–${all[j]}`);
    i = j + 1;
  }
  return out.length > 12 ? `${out.slice(0, 12).join(', ')} …` : out.join(', ');
}

const KINDS = ['earliest', 'latest', 'offset', 'shift', 'time', 'duration'];

function Reset({ g, only, onClose, onDone }) {
  const topics = [...new Set(g.offsets.map((o) => o.topic))];
  const [form, setForm] = useState({ topic: only || (topics.length === 1 ? topics[0] : ''), partition: '', kind: 'earliest', value: '' });
  const [preview, setPreview] = useState(null);
  const set = (changes) => { setForm({ ...form, ...changes }); };
  const partitions = g.offsets.filter((o) => o.topic === form.topic).map((o) => o.partition).sort((a, b) => a - b);
  const problem = valueProblem(form);
  const value = form.kind === 'time' ? String(f.fromInput(form.value) ?? '') : form.kind === 'duration' ? String(Math.round(Number(form.value) * 60000)) : form.kind === 'earliest' || form.kind === 'latest' ? null : form.value.trim();
  const [look, looking] = useAction(async () => {
    setPreview(await api(`/groups/${seg(g.group_id)}/offsets/preview`, { method: 'POST', body: { partitions: form.topic && form.partition !== '' ? [{ topic: form.topic, partition: Number(form.partition) }] : null, topics: form.topic && form.partition === '' ? [form.topic] : null, target: { kind: form.kind, value } } }));
  });
  const [run, state] = useAction(async (typed) => {
    const answer = await api(`/groups/${seg(g.group_id)}/offsets`, { method: 'POST', body: { token: preview.token, confirm: typed } });
    forget(); toast(t.group.resetDone(g.group_id, answer.changes.length)); onClose(); onDone();
  });
  if (preview && !preview.blocked) {
    return html`<${ConfirmDialog} title=${t.group.resetTitle(g.group_id)} name=${g.group_id} verb=${t.group.reset} danger=${false} command=${preview.command} onClose=${onClose} run=${run} state=${state}>
      <p class="note">${t.group.resetPreview(preview.changes.length)}</p><div class="preview"><${Changes} changes=${preview.changes} /></div>
      <button type="button" class="btn s" onClick=${() => setPreview(null)}>${t.group.changeTarget}</button><//>`;
  }
  return html`<${Dialog} title=${t.group.resetTitle(g.group_id)} wide onClose=${onClose} onSubmit=${() => !problem && !looking.busy && look()} foot=${html`<button type="button" class="btn" onClick=${onClose}>${t.action.cancel}</button><button class="btn primary" disabled=${!!problem || looking.busy}>${looking.busy ? t.working : t.action.preview}</button>`}>
    ${preview?.blocked && html`<${Banner} level="warn" title=${t.group.blocked} live>${f.sentence(preview.blocked)}<//>`}
    ${g.members?.length > 0 && !preview && html`<${Banner} level="warn" title=${t.group.active(g.members.length)}>${t.group.activeHelp}<//>`}
    <div class="form-grid"><${SelectField} label=${t.groups.topic} value=${form.topic} onChange=${(e) => set({ topic: e.target.value, partition: '' })} options=${[['', t.group.allTopics(topics.length)], ...topics.map((x) => [x, x])]} />
      ${form.topic && html`<${SelectField} label=${t.topic.partition} value=${form.partition} onChange=${(e) => set({ partition: e.target.value })} options=${[['', t.messages.allPartitions], ...partitions.map((p) => [String(p), String(p)])]} />`}
      <${SelectField} label=${t.group.target} value=${form.kind} onChange=${(e) => set({ kind: e.target.value, value: e.target.value === 'time' ? f.toInput(serverNow() - 3600000) : e.target.value === 'duration' ? '60' : '' })} options=${KINDS.map((k) => [k, t.group.kinds[k]])} />
      ${(form.kind === 'offset' || form.kind === 'shift') && html`<${TextField} label=${form.kind === 'shift' ? t.group.shiftBy : t.messages.offset} help=${form.kind === 'shift' ? t.group.shiftHelp : null} value=${form.value} inputmode="numeric" onInput=${(e) => set({ value: e.target.value })} error=${form.value ? problem : null} />`}
      ${form.kind === 'time' && html`<${Field} label=${t.messages.time} help=${t.group.timeHelp(f.zone(f.fromInput(form.value) ?? undefined))}>${(a) => html`<input class="input" type="datetime-local" step="1" ...${a} value=${form.value} onInput=${(e) => set({ value: e.target.value })} />`}<//>`}
      ${form.kind === 'duration' && html`<${TextField} label=${t.group.minutes} value=${form.value} inputmode="numeric" onInput=${(e) => set({ value: e.target.value })} error=${problem} />`}</div>
    <p class="note">${t.group.resetHelp}</p>
    ${preview?.blocked && preview.changes?.length > 0 && html`<div class="preview"><${Changes} changes=${preview.changes} /></div>`}
    <${Problem} error=${looking.error} /><//>`;
}

function valueProblem({ kind, value }) {
  if (kind === 'offset') return /^\d{1,19}$/.test(value.trim()) ? null : t.group.badOffset;
  if (kind === 'shift') return /^[+-]?\d{1,19}$/.test(value.trim()) ? null : t.group.badShift;
  if (kind === 'time') return f.fromInput(value) === null ? t.group.badTime : null;
  if (kind === 'duration') return Number(value) > 0 ? null : t.group.badMinutes;
  return null;
}

function Changes({ changes }) {
  return html`<${Table} caption=${t.group.changes} cards=${false} rows=${changes.slice(0, ROWS_MAX)} rowKey=${(c) => `${c.topic}/${c.partition}`} columns=${[
    { key: 'topic', title: t.groups.topic, cls: 'break', cell: (c) => html`${c.topic} <span class="dim">${c.partition}</span>` },
    { key: 'now', title: t.group.now, r: true, cell: (c) => (c.current === null ? html`<span class="dim">${t.group.noCommit}</span>` : html`<${Num} v=${c.current} />`) },
    { key: 'new', title: t.group.new, r: true, cell: (c) => html`<strong><${Num} v=${c.new} /></strong>` },
    { key: 'before', title: t.group.lagBefore, r: true, cell: (c) => html`<${Num} v=${c.lag_before} />` },
    { key: 'after', title: t.group.lagAfter, r: true, cell: (c) => html`<${Num} v=${c.lag_after} />` }]} />`;
}

function Delete({ g, onClose }) {
  const [run, state] = useAction(async (typed) => {
    await api(`/groups/${seg(g.group_id)}`, { method: 'DELETE', body: { confirm: typed } });
    forget(); toast(t.group.deleted(g.group_id)); navigate('/groups');
  });
  return html`<${ConfirmDialog} title=${t.group.deleteTitle(g.group_id)} name=${g.group_id} verb=${t.group.deleteVerb} command=${`kafka-consumer-groups --bootstrap-server "$BOOTSTRAP" --delete --group '${g.group_id}'`} onClose=${onClose} run=${run} state=${state}>
    <p>${t.group.deleteText(g.offsets.length)}</p>${g.members?.length > 0 && html`<${Banner} level="warn" title=${t.group.active(g.members.length)}>${t.group.activeHelp}<//>`}<//>`;
}

function ForgetTopic({ g, topic, onClose, onDone }) {
  const [run, state] = useAction(async (typed) => {
    await api(`/groups/${seg(g.group_id)}/offsets`, { method: 'DELETE', body: { topic, confirm: typed } });
    forget(); toast(t.group.forgotten(topic)); onClose(); onDone();
  });
  return html`<${ConfirmDialog} title=${t.group.forgetTitle(topic)} name=${g.group_id} verb=${t.group.forgetVerb} command=${`kafka-consumer-groups --bootstrap-server "$BOOTSTRAP" --delete-offsets --group '${g.group_id}' --topic '${topic}'`} onClose=${onClose} run=${run} state=${state}><p>${t.group.forgetText(topic)}</p><//>`;
}
