// Topics: one page of them at a time, sorted and searched by the server.
import { html, useState } from '../lib.js';
import { useLoad, url, api, forget, useAction } from '../api.js';
import { useQuery, topicPath, navigate } from '../router.js';
import { Page, Loaded, Table, Pager, Search, Empty, Num, Bytes, Rate, Badge, SelectField, TextField, AreaField, WriteButton, Icon, Command, Problem, Unknown, Code } from '../ui/parts.js';
import { Dialog } from '../ui/dialog.js';
import { toast } from '../state.js';
import { t } from '../text.js';
import * as f from '../format.js';

const DEFAULTS = { q: '', sort: 'name', order: 'asc', limit: '50', internal: '', cursor: '', create: '' };

export function Topics() {
  const [q, setQ] = useQuery(DEFAULTS);
  const load = useLoad(url('/topics', { q: q.q, internal: q.internal === 'true', sort: q.sort, order: q.order, limit: q.limit, cursor: q.cursor }), { everyMs: 15000 });
  const columns = [
    { key: 'name', title: t.topics.name, sort: 'name', cls: 'name', cell: (r) => html`<span class="row"><a href=${topicPath(r.name)}>${r.name}</a>${r.internal && html`<${Badge}>${t.topics.internal}<//>`}${Number(r.leaderless) > 0 && html`<${Badge} level="crit" dot>${t.topics.leaderless(r.leaderless)}<//>`}</span>` },
    { key: 'partitions', title: t.topics.partitions, sort: 'partitions', firstOrder: 'desc', r: true, cell: (r) => html`<${Num} v=${r.partitions} />` },
    { key: 'records', title: t.topics.records, r: true, hideS: true, cell: (r) => html`<${Num} v=${r.records} as=${f.compact} />` },
    { key: 'size', title: t.topics.size, sort: 'size', firstOrder: 'desc', r: true, cell: (r) => html`<${Bytes} v=${r.size_bytes} />` },
    { key: 'in', title: t.topics.in, sort: 'rate', firstOrder: 'desc', r: true, cell: (r) => html`<${Rate} v=${r.bytes_in_per_sec} />` },
    { key: 'recordsIn', title: t.topics.recordsIn, r: true, hideM: true, cell: (r) => html`<${Num} v=${r.records_in_per_sec} as=${f.rate} />` },
    { key: 'out', title: t.topics.out, r: true, hideS: true, cell: (r) => html`<${Rate} v=${r.bytes_out_per_sec} />` },
    { key: 'policy', title: t.topics.policy, hideS: true, cell: (r) => r.cleanup_policy ?? html`<${Unknown} />` },
    { key: 'retention', title: t.topics.retention, r: true, hideS: true, cell: (r) => retention(r.retention_ms) },
  ];
  const sort = { by: q.sort, order: q.order, onSort: (by, order) => setQ({ sort: by, order, cursor: '' }) };
  return html`<${Page} title=${t.topics.title} load=${load} actions=${html`<${WriteButton} class="primary" onClick=${() => setQ({ create: '1' })}><${Icon} name="plus" size=${16} />${t.topics.create}<//>`}>
    <section class="card"><div class="toolbar"><${Search} value=${q.q} placeholder=${t.topics.search} onChange=${(text) => setQ({ q: text, cursor: '' }, { replace: true })} />
      <label class="check"><input type="checkbox" checked=${q.internal === 'true'} onChange=${(e) => setQ({ internal: e.target.checked ? 'true' : '', cursor: '' })} />${t.topics.showInternal}</label></div>
      <${Loaded} load=${load}>${(data) => (data.items.length === 0
        ? q.q ? html`<${Empty} title=${t.topics.noMatch(q.q)} actions=${html`<button class="btn" onClick=${() => setQ({ q: '', cursor: '' })}>${t.action.clear}</button>`}>${t.topics.noMatchHelp}<//>`
          : html`<${Empty} icon="topics" title=${t.topics.none} actions=${html`<${WriteButton} class="primary" onClick=${() => setQ({ create: '1' })}>${t.topics.create}<//>`}>${t.topics.noneHelp}<//>`
        : html`<${Table} columns=${columns} rows=${data.items} rowKey=${(r) => r.name} sort=${sort} caption=${t.topics.title} loading=${load.loading && load.data === undefined} />
          <${Pager} shown=${data.items.length} total=${data.total} noun=${t.topics.noun} cursor=${q.cursor} next=${data.next_cursor} loading=${load.loading} onFirst=${() => setQ({ cursor: '' })} onNext=${() => setQ({ cursor: data.next_cursor })} />`)}<//>
    </section>
    ${q.create && html`<${Create} onClose=${() => setQ({ create: '' }, { replace: true })} />`}<//>`;
}

export const retention = (ms) => {
  if (f.unknown(ms)) return html`<${Unknown} />`;
  return String(ms) === '-1' ? t.topics.forever : html`<span title=${t.ms(f.int(ms))}>${f.duration(ms)}</span>`;
};

const NAME = /^[A-Za-z0-9._-]{1,249}$/;

function Create({ onClose }) {
  const [form, setForm] = useState({ name: '', partitions: '3', policy: 'delete', days: '7', more: '' });
  const [preview, setPreview] = useState(null);
  const change = (key) => (e) => { setPreview(null); setForm({ ...form, [key]: e.target.value }); };
  const nameError = form.name && (!NAME.test(form.name) || form.name === '.' || form.name === '..') ? t.topics.badName : null;
  const count = Number(form.partitions);
  const countError = !Number.isInteger(count) || count < 1 ? t.topics.badPartitions : null;
  const days = form.days.trim();
  const daysError = days && !(Number(days) > 0) ? t.topics.badDays : null;
  const { configs, error: moreError } = parseConfigs(form.more);
  const body = (validate) => ({ name: form.name, partitions: count, validate_only: validate,
    configs: { ...(form.policy !== 'delete' ? { 'cleanup.policy': form.policy } : {}), ...(days && days !== '7' ? { 'retention.ms': String(Math.round(Number(days) * 86400000)) } : {}), ...configs } });
  const [run, state] = useAction(async (validate) => {
    const answer = await api('/topics', { method: 'POST', body: body(validate) });
    if (validate) { setPreview(answer); return; }
    forget();
    toast(t.topics.created(form.name));
    onClose();
    navigate(topicPath(form.name));
  });
  const bad = !form.name || nameError || countError || daysError || moreError;
  return html`<${Dialog} title=${t.topics.create} onClose=${onClose} onSubmit=${() => !bad && !state.busy && run(!preview)} foot=${html`<button type="button" class="btn" onClick=${onClose}>${t.action.cancel}</button>
      <button class="btn primary" disabled=${bad || state.busy}>${state.busy ? t.working : preview ? t.topics.create : t.action.preview}</button>`}>
    <${TextField} label=${t.topics.name} value=${form.name} onInput=${change('name')} error=${nameError} help=${t.topics.nameHelp} maxlength="249" autofocus name="name" />
    <div class="form-grid"><${TextField} label=${t.topics.partitions} value=${form.partitions} onInput=${change('partitions')} error=${countError} inputmode="numeric" name="partitions" />
      <${SelectField} label=${t.topics.policy} value=${form.policy} onChange=${change('policy')} options=${[['delete', t.topics.policyDelete], ['compact', t.topics.policyCompact], ['compact,delete', t.topics.policyBoth]]} />
      <${TextField} label=${t.topics.days} value=${form.days} onInput=${change('days')} error=${daysError} inputmode="decimal" /></div>
    <${AreaField} label=${t.topics.more} help=${t.topics.moreHelp} value=${form.more} onInput=${change('more')} error=${moreError} rows="3" />
    ${preview && html`<div class="stack-s"><p class="note">${t.topics.previewOk}</p><${Command} text=${preview.command} /><div class="label">${t.topics.yaml}</div><${Code} text=${yaml(body(false))} label=${t.topics.yaml} /></div>`}
    <${Problem} error=${state.error} /><//>`;
}

/** Lines of `name=value`. */
export function parseConfigs(text) {
  const configs = {};
  for (const line of text.split('\n').map((l) => l.trim()).filter(Boolean)) {
    const at = line.indexOf('=');
    if (at < 1) return { configs, error: t.topics.badConfig(line) };
    configs[line.slice(0, at).trim()] = line.slice(at + 1).trim();
  }
  return { configs, error: null };
}

/** The same as a resource for the operator. JSON strings are YAML strings. */
function yaml({ name, partitions, configs }) {
  const plain = /^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$/.test(name);
  const rest = { ...configs };
  const lines = ['apiVersion: kafscale.io/v1alpha1', 'kind: KafscaleTopic', 'metadata:', `  name: ${plain ? name : name.toLowerCase().replace(/[^a-z0-9.-]+/g, '-').replace(/^[^a-z0-9]+|[^a-z0-9]+$/g, '') || 'topic'}`, 'spec:', `  clusterRef: ${t.topics.yourCluster}`];
  if (!plain) lines.push(`  topicName: ${JSON.stringify(name)}`);
  lines.push(`  partitions: ${partitions}`);
  if (/^-?\d+$/.test(rest['retention.ms'] ?? '')) { lines.push(`  retentionMs: ${rest['retention.ms']}`); delete rest['retention.ms']; }
  if (Object.keys(rest).length) lines.push('  config:', ...Object.entries(rest).map(([k, v]) => `    ${JSON.stringify(k)}: ${JSON.stringify(v)}`));
  return lines.join('\n');
}
